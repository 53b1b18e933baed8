//! The pages of a change: the one that asks, and the one that says what was done.

use maud::{Markup, html};

use super::pages::{facts, hidden, home, steps};
use super::{asked, shown};
use crate::identity::Identity;
use crate::machine::Explanation;
use crate::operate::{Condition, Cursor, Forgotten, Reason};

/// What can be done to a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Reset,
    GiveUp,
}

impl What {
    pub(super) const ALL: [Self; 2] = [Self::Reset, Self::GiveUp];

    fn path(self) -> &'static str {
        match self {
            Self::Reset => "/reset",
            Self::GiveUp => "/give-up",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Reset => "Reset its attempts",
            Self::GiveUp => "Give it up",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Reset => "Reset the attempts of a run?",
            Self::GiveUp => "Give a run up?",
        }
    }

    /// What the change comes to.
    fn meaning(self) -> &'static str {
        match self {
            Self::Reset => "The next retry resumes the run at once, after its finished steps.",
            Self::GiveUp => {
                "The run never goes on, and its retries are refused. Nothing is undone: settle by hand what its steps have \
                done. They are removed with this change."
            }
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Reset => "The attempts are reset. The next retry resumes the run.",
            Self::GiveUp => "The run is given up. Its retries are refused.",
        }
    }
}

/// Whether [`Operate`](crate::operate::Operate) would change the run.
pub(super) fn may_be_changed(explained: &Explanation) -> bool {
    explained.record.is_some_and(|seen| matches!(seen.condition, Condition::Abandoned | Condition::Undoing))
}

/// The changes that are offered on the page of a key: each leads to the page that asks.
pub(super) fn offered(place: &str, identity: &Identity, explained: &Explanation) -> Markup {
    let at = &Cursor::of(identity);
    html! {
        section aria-labelledby="changes" {
            h2 id="changes" { "Changes" }
            @if may_be_changed(explained) {
                @for what in What::ALL {
                    form method="post" action={ (place) (what.path()) } {
                        (hidden(asked::at(at)))
                        button { (what.name()) "…" }
                    }
                }
            }
            form method="post" action={ (place) "/forget" } {
                (hidden(asked::at_scope(&at.scope)))
                button { "Forget its scope…" }
            }
        }
    }
}

/// Whose records to forget, on the first page.
pub(super) fn scope_form(place: &str) -> Markup {
    html! {
        section aria-labelledby="forget" {
            h2 id="forget" { "Forget a scope" }
            form method="post" action={ (place) "/forget" } autocomplete="off" {
                p {
                    label for="forget-scope" { "Scope" }
                    input id="forget-scope" name="scope" maxlength="255" spellcheck="false" aria-describedby="forget-help";
                    small id="forget-help" { "As it is stored. The next page says what would be removed, and asks." }
                }
                p {
                    input type="checkbox" id="forget-global" name="global" value="yes";
                    label for="forget-global" { "The global scope" }
                }
                p { button { "Count…" } }
            }
        }
    }
}

pub(super) fn of_run(place: &str, what: What, identity: &Identity, explained: &Explanation) -> Markup {
    html! {
        p.answer { strong { (what.meaning()) } }
        (facts(identity, explained))
        (steps(&explained.steps))
        form method="post" action={ (place) (what.path()) "/confirmed" } autocomplete="off" {
            (hidden(asked::at(&Cursor::of(identity))))
            @if what == What::GiveUp {
                p {
                    label for="reason" { "Reason" }
                    input id="reason" name="reason" maxlength=(Reason::MAX_CHARS) required aria-describedby="reason-help";
                    small id="reason-help" { "It is shown with this key: what was settled, by whom, and where that is noted." }
                }
            }
            p { button { (what.name()) } }
        }
        p { a href=(home(place)) { "Back to the overview, without a change" } }
    }
}

pub(super) fn made(place: &str, what: What, identity: &Identity) -> Markup {
    html! {
        p.answer role="status" { strong { (what.done()) } }
        form method="post" action={ (place) "/key" } {
            (hidden(asked::at(&Cursor::of(identity))))
            button { "Look at it" }
        }
        p { a href=(home(place)) { "Back to the overview" } }
    }
}

pub(super) fn of_scope(place: &str, scope: &str, would: Forgotten) -> Markup {
    html! {
        p.answer { strong { "A retry of a request whose record is removed runs again." } }
        p { "Forget a scope whose clients are gone. The numbers are as of now: a request may change them." }
        dl { (numbers(scope, would)) }
        form method="post" action={ (place) "/forget/confirmed" } {
            (hidden(asked::at_scope(scope)))
            button { "Forget the scope" }
        }
        p { a href=(home(place)) { "Back to the overview, without a change" } }
    }
}

pub(super) fn forgotten(place: &str, scope: &str, forgotten: Forgotten) -> Markup {
    html! {
        p.answer role="status" { strong { "The finished records of the scope are forgotten." } }
        dl { (numbers(scope, forgotten)) }
        p { a href=(home(place)) { "Back to the overview" } }
    }
}

fn numbers(scope: &str, Forgotten { removed, emptied, kept }: Forgotten) -> Markup {
    html! {
        dt { "Scope" }
        dd { (shown::scope(scope)) }
        dt { "Removed" }
        dd { (removed) }
        dt { "Emptied: without their reply or reason, they go on refusing retries" }
        dd { (emptied) }
        dt { "Kept as they are: not finished, or empty already" }
        dd { (kept) }
    }
}
