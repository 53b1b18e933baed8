//! Runs in recorded steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use idem_core::store::{
    Attempt, Claimed, Entry, EntryKind, Format, Input, Intent, Lease, LeaseTerms, Outcome, Recover, Reply,
};
use idem_core::{Fingerprint, Identity, Kind, Request, Then};

use crate::support::{
    HOUR, MINUTE, SECOND, TERMS, asking, call_started, in_a_second, lease, leased, outcome, refusal, reply, request,
    sent_ago, transaction,
};
use crate::{Leases, contracts};

contracts! { $ leased_contract in leased for Leases:
    /// Everybody sees the lease at once, and another fingerprint is refused.
    async fn r25_a_lease_is_in_flight_until_it_ends(subject) {
        let attempt = leased(&subject, &request("k")).await;
        assert_eq!((attempt.number, attempt.entries.len()), (1, 0));
        let claim = async |request: Request| refusal(lease(&subject, &request, &TERMS, Intent::Run).await);
        assert_eq!(claim(request("k")).await, Kind::KeyInFlight);
        assert_eq!(claim(asking("k", "that")).await, Kind::KeyReused);
        // A renewal counts from when it comes.
        subject.pass(MINUTE / 2).await;
        attempt.lease.renew().await.expect("held");
        subject.pass(MINUTE * 3 / 4).await;
        assert_eq!(claim(request("k")).await, Kind::KeyInFlight);
        subject.pass(MINUTE / 2).await;
        assert_eq!(claim(asking("k", "that")).await, Kind::KeyReused, "over, and yet another's");
        assert_eq!(leased(&subject, &request("k")).await.number, 2);
    }

    /// A `ttl` or a lease that was set by hand does not overflow.
    async fn r25_a_ttl_out_of_its_range_is_refused_and_a_lease_has_any_length(subject) {
        let mut endless = request("k");
        endless.ttl = Duration::MAX;
        let refused = S::Lease::claim(subject.store(), &endless, &TERMS, Intent::Run).await;
        assert_eq!(refused.map(|_| ()).expect_err("no such ttl").kind(), Kind::TtlInvalid);
        let mut terms = TERMS;
        terms.duration = Duration::MAX;
        let Claimed::Run(attempt) = lease(&subject, &request("k"), &terms, Intent::Run).await else { panic!("it runs") };
        attempt.lease.renew().await.expect("held");
        attempt.lease.record(None, &transaction(0, "step")).await.expect("held");
        assert_eq!(refusal(lease(&subject, &request("k"), &TERMS, Intent::Run).await), Kind::KeyInFlight);
        attempt.lease.complete(None, &outcome("done")).await.expect("held");
        assert_eq!(replayed(&subject, &request("k")).await, reply("done"));
    }

    /// Of many that claim, or take over, exactly one runs.
    async fn r25_of_many_claims_exactly_one_gets_the_lease(subject) {
        let subject = Arc::new(subject);
        for number in 1..=3 {
            let tasks = (0..16).map(|_| {
                let subject = Arc::clone(&subject);
                tokio::spawn(async move {
                    match lease(&*subject, &request("k"), &TERMS, Intent::Run).await {
                        Claimed::Run(attempt) => Some(attempt.number),
                        Claimed::Refuse(Kind::KeyInFlight) => None,
                        Claimed::Refuse(kind) => panic!("refused: {kind:?}"),
                        Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
                        Claimed::Replay(reply, _) => panic!("a replay: {reply:?}"),
                    }
                })
            });
            let numbers: Vec<_> = join_all(tasks).await.into_iter().filter_map(|ended| ended.expect("no panic")).collect();
            assert_eq!(numbers, [number]);
            subject.pass(2 * MINUTE).await;
        }
    }

    /// A claim that was taken over changes nothing, whatever it tries.
    async fn r26_a_stale_claim_changes_nothing(subject) {
        let stale = leased(&subject, &request("k")).await;
        stale.lease.record(None, &transaction(0, "kept")).await.expect("held");
        subject.pass(2 * MINUTE).await;
        let current = leased(&subject, &request("k")).await;
        assert_eq!(current.entries, [transaction(0, "kept")]);

        let lost = |ended: Result<(), idem_core::Error>| assert_eq!(ended.expect_err("lost").kind(), Kind::LeaseLost);
        lost(stale.lease.renew().await);
        lost(stale.lease.record(None, &transaction(1, "stale")).await);
        lost(stale.lease.complete(None, &outcome("stale")).await);
        lost(stale.lease.release().await);

        current.lease.renew().await.expect("held");
        current.lease.release().await.expect("held");
        let next = leased(&subject, &request("k")).await;
        assert_eq!((next.number, next.entries), (3, vec![transaction(0, "kept")]));
    }

    /// What is recorded comes back in its order, byte for byte.
    async fn r28_the_journal_comes_back_as_it_was_recorded(subject) {
        let http = Reply { format: Format::HTTP, status: Some(402), headers: Bytes::from_static(b"\0\xff"), body: Bytes::new() };
        let undoes = vec!["Größe \"2\"".to_owned(), "reserve".to_owned()];
        let entries = [
            transaction(0, "reserve"),
            Entry::new(1, EntryKind::CALL, "Größe \"2\"").with_reply(Reply { body: Bytes::from(vec![9; 50_000]), ..reply("") }),
            Entry::new(2, EntryKind::REJECTION, "").with_reply(http).with_undoes(undoes),
            Entry::new(3, EntryKind::UNDO, "Größe \"2\""),
        ];
        let attempt = leased(&subject, &request("k")).await;
        for entry in &entries {
            attempt.lease.record(None, entry).await.expect("kept");
        }
        attempt.lease.release().await.expect("held");
        assert_eq!(leased(&subject, &request("k")).await.entries, entries);

        // A rejection whose reply was over the limit has none.
        let attempt = leased(&subject, &request("oversized")).await;
        let rejection = Entry::new(0, EntryKind::REJECTION, "").with_undoes(vec!["a".to_owned()]);
        attempt.lease.record(None, &rejection).await.expect("kept");
        attempt.lease.release().await.expect("held");
        assert_eq!(leased(&subject, &request("oversized")).await.entries, [rejection]);
    }

    /// An entry that comes again, since its commit did not answer, is kept once. Nothing else takes its place.
    async fn r28_an_entry_is_kept_once(subject) {
        let attempt = leased(&subject, &request("k")).await;
        for _ in 0..3 {
            attempt.lease.record(None, &transaction(0, "reserve")).await.expect("kept");
        }
        for other in [transaction(0, "another"), Entry::new(0, EntryKind::CALL, "reserve").with_reply(reply("result"))] {
            attempt.lease.record(None, &other).await.expect_err("the place is taken");
        }
        attempt.lease.release().await.expect("held");
        let next = leased(&subject, &request("k")).await;
        assert_eq!(next.entries, [transaction(0, "reserve")]);
        next.lease.record(None, &transaction(0, "reserve")).await.expect_err("it is an earlier attempt's");
    }

    /// In the place of a call that was started, its answer is kept, or a rejection, and nothing else.
    async fn r28a_only_its_answer_takes_the_place_of_a_started_call(subject) {
        let called = Entry::new(0, EntryKind::CALL, "charge").with_reply(reply("charged"));
        let rejection = Entry::new(0, EntryKind::REJECTION, "").with_reply(reply("no")).with_undoes(vec!["a".to_owned()]);
        for (key, after) in [("called", called.clone()), ("rejected", rejection)] {
            let attempt = leased(&subject, &request(key)).await;
            attempt.lease.record(None, &call_started(0, "charge")).await.expect("kept");
            attempt.lease.release().await.expect("held");
            // By the next attempt, which starts it again.
            let next = leased(&subject, &request(key)).await;
            assert_eq!(next.entries, [call_started(0, "charge")]);
            let other = Entry::new(0, EntryKind::CALL, "refund").with_reply(reply("charged"));
            next.lease.record(None, &other).await.expect_err("the place is another call's");
            next.lease.record(None, &call_started(0, "charge")).await.expect("kept");
            next.lease.record(None, &after).await.expect("kept");
            next.lease.release().await.expect("held");
            subject.pass(MINUTE).await;
            assert_eq!(leased(&subject, &request(key)).await.entries, [after]);
        }
    }

    /// A rejected run is not forgotten until it is undone, and its attempts do not count.
    async fn r28a_a_rejected_run_is_kept_until_it_is_completed(subject) {
        let once = LeaseTerms::DEFAULT.lasting(MINUTE).attempts(1);
        let attempt = leased(&subject, &request("k")).await;
        let rejection = Entry::new(0, EntryKind::REJECTION, "").with_reply(reply("no")).with_undoes(vec!["a".to_owned()]);
        attempt.lease.record(None, &rejection).await.expect("kept");
        for number in 2..5 {
            subject.pass(1000 * HOUR).await;
            assert_eq!(subject.sweep().await, 0);
            let Claimed::Run(next) = lease(&subject, &request("k"), &once, Intent::Run).await else { panic!("it is undone") };
            assert_eq!((next.number, next.entries.len()), (number, 1));
            next.lease.renew().await.expect("held");
        }
        subject.pass(MINUTE * 2).await;
        let last = leased(&subject, &request("k")).await;
        last.lease.complete(None, &outcome("no")).await.expect("kept");
        assert_eq!(replayed(&subject, &request("k")).await, reply("no"));
        subject.pass(2 * HOUR).await;
        assert_eq!(subject.sweep().await, 1, "then it expires like any other");
    }

    /// A crash, or the loss of a lease, ends an attempt without a word: so many of them use the run up.
    async fn r25a_ten_attempts_that_end_without_a_word_use_a_run_up(subject) {
        let ten = LeaseTerms::DEFAULT.lasting(MINUTE);
        for number in 1..=10 {
            let Claimed::Run(attempt) = lease(&subject, &request("k"), &ten, Intent::Run).await else { panic!("{number}") };
            assert_eq!(attempt.number, number);
            subject.pass(2 * MINUTE).await;
        }
        assert_eq!(refusal(lease(&subject, &request("k"), &ten, Intent::Run).await), Kind::AttemptsExhausted);
        assert_eq!(refusal(lease(&subject, &request("k"), &TERMS.attempts(2), Intent::Resume).await), Kind::AttemptsExhausted);
    }

    /// An attempt that is released uses nothing up. The first retry runs at once, and then the pause grows. It is exact.
    async fn r25a_attempts_that_are_released_are_spaced_and_not_counted(subject) {
        let once = LeaseTerms::DEFAULT.lasting(MINUTE).attempts(1);
        let mut released = Instant::now();
        for (number, pause) in (1..).zip([0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]) {
            let attempt = after_pause(&subject, &once, released, SECOND * pause).await;
            assert_eq!(attempt.number, number);
            released = Instant::now();
            attempt.lease.release().await.expect("held");
        }
        let claim = async |what| lease(&subject, &asking("k", what), &once, Intent::Run).await;
        subject.pass(MINUTE / 2).await;
        let Claimed::TooSoon(rest) = claim("this").await else { panic!("halfway") };
        assert!(rest <= MINUTE / 2, "{rest:?}");
        assert_eq!(refusal(claim("that").await), Kind::KeyReused);
        // An attempt that ends without a word is one too many. The pause of the others does not hide that.
        subject.pass(MINUTE / 2).await;
        assert!(matches!(claim("this").await, Claimed::Run(_)));
        subject.pass(MINUTE).await;
        assert_eq!(refusal(claim("this").await), Kind::AttemptsExhausted);
    }

    /// A rejected run is spaced like any other, and never used up.
    async fn r25a_the_attempts_to_undo_a_rejected_run_are_spaced(subject) {
        let once = LeaseTerms::DEFAULT.lasting(MINUTE).attempts(1);
        let attempt = leased(&subject, &request("k")).await;
        let rejection = Entry::new(0, EntryKind::REJECTION, "").with_reply(reply("no")).with_undoes(vec!["a".to_owned()]);
        attempt.lease.record(None, &rejection).await.expect("kept");
        let mut released = Instant::now();
        attempt.lease.release().await.expect("held");
        for pause in [0, 1, 2, 4, 8] {
            let next = after_pause(&subject, &once, released, SECOND * pause).await;
            released = Instant::now();
            next.lease.release().await.expect("held");
        }
    }

    /// A process that only resumes begins nothing, and is not compared: what the first attempt was asked counts.
    async fn r05a_a_process_that_resumes_begins_nothing_and_is_not_compared(subject) {
        let resume = async |what: &str| lease(&subject, &asking("k", what), &TERMS, Intent::Resume).await;
        assert_eq!(refusal(resume("this").await), Kind::NothingToResume);
        let first = leased(&subject, &request("k")).await;
        assert_eq!(refusal(resume("that").await), Kind::KeyInFlight);
        first.lease.release().await.expect("held");
        let Claimed::Run(resumed) = resume("that").await else { panic!("it was abandoned") };
        assert_eq!(resumed.fingerprint, request("k").fingerprint);
        resumed.lease.complete(None, &outcome("done")).await.expect("kept");
        assert!(matches!(resume("that").await, Claimed::Replay(..)));
        subject.pass(2 * HOUR).await;
        assert_eq!(refusal(resume("this").await), Kind::NothingToResume);
    }

    /// A release frees the key at once and keeps the journal. The claim is nobody's then.
    async fn r14_a_release_keeps_the_journal_and_ends_the_claim(subject) {
        let first = leased(&subject, &request("k")).await;
        first.lease.record(None, &transaction(0, "reserve")).await.expect("kept");
        first.lease.release().await.expect("held");
        assert_eq!(first.lease.renew().await.expect_err("over").kind(), Kind::LeaseLost);
        let next = leased(&subject, &request("k")).await;
        assert_eq!((next.number, next.entries), (2, vec![transaction(0, "reserve")]));
    }

    /// A completion is the end: it is replayed, and its journal is gone.
    async fn r25_a_completed_run_is_replayed_and_begins_anew_when_it_has_expired(subject) {
        for is_oversized in [false, true] {
            let attempt = leased(&subject, &request("k")).await;
            assert_eq!((attempt.number, attempt.entries.len()), (1, 0));
            attempt.lease.record(None, &transaction(0, "reserve")).await.expect("kept");
            let ending = if is_oversized { Outcome::Oversized } else { outcome("done") };
            attempt.lease.complete(None, &ending).await.expect("kept");
            assert_eq!(attempt.lease.complete(None, &ending).await.expect_err("over").kind(), Kind::LeaseLost);
            match lease(&subject, &request("k"), &TERMS, Intent::Run).await {
                Claimed::Replay(stored, _) => assert_eq!((stored, is_oversized), (reply("done"), false)),
                Claimed::Refuse(kind) => assert_eq!((kind, is_oversized), (Kind::ReplyTooLarge, true)),
                Claimed::Run(_) => panic!("it ran"),
                Claimed::TooSoon(rest) => panic!("too soon by {rest:?}"),
            }
            subject.pass(2 * HOUR).await;
        }
    }

    /// With `then = refuse`, a retry after the `ttl` of a completed run does not begin it anew, swept or not. An abandoned
    /// run is not kept for longer by that.
    async fn r36_a_late_retry_of_a_leased_run_is_refused(subject) {
        for (round, is_swept) in [false, true].into_iter().enumerate() {
            let [this, that] =
                ["this", "that"].map(|what| asking(&round.to_string(), what).then(Then::Refuse(HOUR)).expect("an hour"));
            let attempt = leased(&subject, &this).await;
            attempt.lease.record(None, &transaction(0, "reserve")).await.expect("kept");
            attempt.lease.complete(None, &outcome("done")).await.expect("kept");
            for minutes in [61, 58] {
                subject.pass(minutes * MINUTE).await;
                if is_swept {
                    assert_eq!(subject.sweep().await, 0);
                }
                for (request, kind) in [(&this, Kind::RetryTooLate), (&that, Kind::KeyReused)] {
                    match lease(&subject, request, &TERMS, Intent::Run).await {
                        Claimed::Refuse(refused) => assert_eq!(refused, kind),
                        _ => panic!("it is refused"),
                    }
                }
            }
            subject.pass(2 * MINUTE).await;
            let anew = leased(&subject, &that).await;
            assert_eq!((anew.number, anew.entries.len()), (1, 0));
            subject.pass(HOUR + 2 * MINUTE).await;
            assert_eq!(subject.sweep().await, 1, "it was abandoned");
        }
    }

    /// A leased run begins only if its request was not first sent too long ago. One that has begun is resumed whenever that
    /// was.
    async fn r36_a_leased_run_that_was_first_sent_too_long_ago_does_not_begin(subject) {
        let (too_old, invalid) = (Some(Kind::FirstSentTooOld), Some(Kind::FirstSentInvalid));
        for (ago, expected) in [(0, None), (3599, None), (3600, too_old), (-299, None), (-301, invalid)] {
            let answer = in_a_second(async || {
                let key = format!("{ago} {:?}", subject.now().await);
                let request = sent_ago(&subject, &request(&key), ago).await;
                match lease(&subject, &request, &TERMS, Intent::Run).await {
                    Claimed::Run(_) => None,
                    claimed => Some(refusal(claimed)),
                }
            });
            assert_eq!(answer.await, expected, "{ago}");
        }
        // So long ago that the run could not begin.
        let late = async || sent_ago(&subject, &request("k"), 7200).await;
        assert_eq!(refusal(lease(&subject, &late().await, &TERMS, Intent::Run).await), Kind::FirstSentTooOld);
        let resumed = lease(&subject, &late().await, &TERMS, Intent::Resume).await;
        assert_eq!(refusal(resumed), Kind::NothingToResume);
        let attempt = leased(&subject, &request("k")).await;
        assert_eq!(refusal(lease(&subject, &late().await, &TERMS, Intent::Run).await), Kind::KeyInFlight);
        attempt.lease.record(None, &transaction(0, "reserve")).await.expect("kept");
        attempt.lease.release().await.expect("released");
        let attempt = leased(&subject, &late().await).await;
        assert_eq!((attempt.number, attempt.entries.len()), (2, 1));
        drop(attempt);
        // A process that resumes has no such time. A run that was abandoned for too long has expired.
        for is_swept in [false, true] {
            subject.pass(2 * HOUR).await;
            if is_swept {
                assert!(subject.sweep().await >= 1);
            }
            assert_eq!(refusal(lease(&subject, &late().await, &TERMS, Intent::Run).await), Kind::FirstSentTooOld);
        }
        let anew = leased(&subject, &request("k")).await;
        assert_eq!((anew.number, anew.entries.len()), (1, 0));
    }

    /// An abandoned run is kept for its `ttl` after the end of its last lease, and then begins anew without its
    /// journal.
    async fn r32_an_expired_run_begins_anew_without_its_journal(subject) {
        for is_swept in [false, true] {
            let attempt = leased(&subject, &request("k")).await;
            attempt.lease.record(None, &transaction(0, "reserve")).await.expect("kept");
            subject.pass(HOUR + MINUTE / 2).await;
            assert_eq!(subject.sweep().await, 0);
            subject.pass(2 * MINUTE).await;
            if is_swept {
                assert_eq!(subject.sweep().await, 1);
            }
            let anew = leased(&subject, &asking("k", "that")).await;
            assert_eq!((anew.number, anew.entries.len()), (1, 0));
            subject.pass(2 * HOUR).await;
        }
    }

    /// Abandoned runs are found, page by page, each with what it was begun with: no others.
    async fn r32_abandoned_runs_are_found_in_their_order(subject) {
        let of = |operation: &'static str, scope: &str, input: bool| {
            let identity = Identity::new(scope, operation, "k").expect("an identity");
            let request = Request::new(identity, Fingerprint::none(), HOUR).expect("a request");
            if input { request.with_input(Input(Bytes::copy_from_slice(scope.as_bytes()))) } else { request }
        };
        let begin = async |request: Request| leased(&subject, &request).await;
        // More than a page of them.
        let mut expected: Vec<_> = (0..130).map(|number| format!("user {number}")).collect();
        expected.sort();
        for scope in &expected {
            begin(of("found", scope, true)).await;
        }
        begin(of("found", "without an input", false)).await;
        begin(of("another", "of another operation", true)).await;
        let over: Attempt<S::Lease> = begin(of("found", "over", true)).await;
        over.lease.complete(None, &outcome("done")).await.expect("kept");
        assert_eq!(subject.store().abandoned("found", None).await.expect("an answer"), []);
        subject.pass(2 * MINUTE).await;
        begin(of("found", "running", true)).await;

        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = subject.store().abandoned("found", after).await.expect("an answer");
            after = page.last().map(|last| last.place.clone());
            found.extend(page.into_iter().map(|run| String::from_utf8(run.input.0.to_vec()).expect("a scope")));
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected);
        subject.pass(2 * HOUR).await;
        assert_eq!(subject.store().abandoned("found", None).await.expect("an answer"), [], "expired");
    }
}

/// The reply that a request gets.
async fn replayed<S: Leases>(subject: &S, request: &Request) -> Reply {
    match lease(subject, request, &TERMS, Intent::Run).await {
        Claimed::Replay(reply, _) => reply,
        claimed => panic!("no replay, but {:?}", refusal(claimed)),
    }
}

/// The next attempt, which is refused until this pause after the release is over, and runs then.
pub(crate) async fn after_pause<S: Leases>(
    subject: &S,
    terms: &LeaseTerms,
    released: Instant,
    pause: Duration,
) -> Attempt<S::Lease> {
    // A store's clock may tell milliseconds only.
    let tolerance = Duration::from_millis(5);
    let claim = async || lease(subject, &request("k"), terms, Intent::Run).await;
    let mut claimed = claim().await;
    if let Claimed::TooSoon(rest) = claimed {
        assert!(rest <= pause && rest + released.elapsed() + tolerance >= pause, "{rest:?} of {pause:?}");
        subject.pass(rest).await;
        claimed = claim().await;
    } else {
        assert!(released.elapsed() + tolerance >= pause, "at once, and not after {pause:?}");
    }
    match claimed {
        Claimed::Run(attempt) => attempt,
        Claimed::TooSoon(rest) => panic!("still too soon by {rest:?}"),
        Claimed::Replay(reply, _) => panic!("a replay: {reply:?}"),
        Claimed::Refuse(kind) => panic!("refused: {kind:?}"),
    }
}
