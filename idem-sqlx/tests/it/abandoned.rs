//! Leased runs whose caller does not come again: `record_input` and `resume_abandoned`.

use std::sync::atomic::{AtomicUsize, Ordering};

use idem_core::{Error, Kind, Resumed};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::client::eventually;
use crate::support::Database;

/// What the functions of these tests are called with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    pub id: String,
    pub to: String,
}

fn mail(id: impl ToString, to: &str) -> Mail {
    Mail { id: id.to_string(), to: to.to_owned() }
}

/// Where mails are delivered.
#[derive(Debug)]
pub struct Office {
    /// Each time that the first step was entered.
    pub prepared: AtomicUsize,
    /// Each time that the delivery was tried.
    pub tried: AtomicUsize,
    /// Open, unless a test closes it.
    pub gate: Semaphore,
    /// How many tries from now on fail.
    pub failures: AtomicUsize,
}

impl Default for Office {
    fn default() -> Self {
        Self {
            prepared: AtomicUsize::new(0),
            tried: AtomicUsize::new(0),
            gate: Semaphore::new(1),
            failures: AtomicUsize::new(0),
        }
    }
}

impl Office {
    pub async fn deliver(&self) -> Result<(), Error> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.acquire().await.expect("a gate"));
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Error::new(Kind::StoreFailed).because("told to")) } else { Ok(()) }
    }

    fn failing(times: usize) -> Self {
        Self { failures: AtomicUsize::new(times), ..Self::default() }
    }

    fn tried(&self) -> usize {
        self.tried.load(Ordering::SeqCst)
    }

    fn prepared(&self) -> usize {
        self.prepared.load(Ordering::SeqCst)
    }
}

macro_rules! mails {
    ($module:ident, $Store:ident, $Steps:ident) => {
        pub mod $module {
            use std::sync::atomic::Ordering;

            use idem_core::{Error, Resumed, idempotent};
            use idem_sqlx::{$Steps, $Store};

            use super::{Mail, Office};

            #[idempotent(
                        key = mail.id, scope = "mails", operation = "mails.send", fingerprint = mail, attempts = 3,
                        record_input = mail
                    )]
            pub async fn send(steps: &mut $Steps, mail: &Mail, office: &Office) -> Result<String, Error> {
                let prepare = async |_| {
                    office.prepared.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Error>(())
                };
                steps.call("prepare", prepare).await?;
                steps.call("deliver", async |_| office.deliver().await).await?;
                Ok(mail.to.clone())
            }

            /// The same without a recorded input, and under another name.
            #[idempotent(key = mail.id, scope = "mails", operation = "mails.forget", fingerprint = mail)]
            pub async fn forget(steps: &mut $Steps, mail: &Mail, office: &Office) -> Result<(), Error> {
                steps.call("deliver", async |_| office.deliver().await).await
            }

            /// Of several arguments, some are recorded.
            #[idempotent(
                        key = id, scope = "mails", operation = "mails.parts", fingerprint = to, record_input = (id, to)
                    )]
            pub async fn parts(steps: &mut $Steps, id: &str, to: &str, office: &Office) -> Result<String, Error> {
                steps.call("deliver", async |_| office.deliver().await).await?;
                Ok(to.to_owned())
            }

            pub async fn go_on(store: &$Store, office: &Office) -> Resumed {
                let resumed = store.resume_abandoned("mails.send", async |mail: Mail| send(store, &mail, office).await);
                resumed.await.expect("an answer")
            }
        }
    };
}

mails!(postgres_mails, PgStore, PgSteps);
mails!(sqlite_mails, SqliteStore, SqliteSteps);

const INPUTS: &str = "SELECT count(*) FROM idem_steps WHERE position = -1";

both! {
    async fn r28_abandoned_runs_are_gone_on_with_without_their_callers(db) {
        let (store, office) = (db.store(8).await, std::sync::Arc::new(Office::failing(2)));
        // Two that failed, one that is over, one that runs, and two that nobody recorded.
        for id in ["failed 1", "failed 2"] {
            assert!(mails::send(&store, &mail(id, "u1"), &office).await.is_err());
        }
        assert_eq!(mails::send(&store, &mail("over", "u1"), &office).await.expect("sent"), "u1");
        office.failures.store(1, Ordering::SeqCst);
        assert!(mails::forget(&store, &mail("forgotten", "u1"), &office).await.is_err());
        let closed = office.gate.acquire().await.expect("a gate");
        let (of_run, of_store) = (office.clone(), store.clone());
        let running = tokio::spawn(async move { mails::send(&of_store, &mail("runs", "u1"), &of_run).await });
        eventually("it is delivered", async || office.tried() == 5).await;
        assert_eq!(db.number(INPUTS).await, 3);
        drop(closed);
        running.await.expect("a task").expect("sent");

        let before = (office.prepared(), office.tried());
        assert_eq!(mails::go_on(&store, &office).await, Resumed { succeeded: 2, failed: 0 });
        assert_eq!((office.prepared() - before.0, office.tried() - before.1), (0, 2));
        assert_eq!(db.number(INPUTS).await, 0);
        assert_eq!(mails::go_on(&store, &office).await, Resumed::default());
        // Its caller comes after all.
        assert_eq!(mails::send(&store, &mail("failed 1", "u1"), &office).await.expect("sent"), "u1");
        assert_eq!(office.tried() - before.1, 2);
    }

    async fn r25_a_run_whose_lease_lives_is_not_abandoned(db) {
        let (store, office) = (db.store(8).await, std::sync::Arc::new(Office::default()));
        let closed = office.gate.acquire().await.expect("a gate");
        let (of_run, of_store) = (office.clone(), store.clone());
        let running = tokio::spawn(async move { mails::send(&of_store, &mail("k", "u1"), &of_run).await });
        eventually("it is delivered", async || office.tried() == 1).await;
        assert_eq!(mails::go_on(&store, &office).await, Resumed::default());
        drop(closed);
        running.await.expect("a task").expect("sent");
        assert_eq!(office.tried(), 1);
    }

    async fn each_of_several_pages_is_given_once_in_a_pass_however_it_ends(db) {
        const MAILS: usize = 230;
        let (store, office) = (db.store(8).await, Office::failing(MAILS));
        for id in 0..MAILS {
            assert!(mails::send(&store, &mail(id, "u1"), &office).await.is_err());
        }
        office.failures.store(MAILS, Ordering::SeqCst);
        assert_eq!(mails::go_on(&store, &office).await, Resumed { succeeded: 0, failed: 230 });
        assert_eq!(office.tried(), 2 * MAILS);
        assert_eq!(mails::go_on(&store, &office).await, Resumed { succeeded: 230, failed: 0 });
        // No third try is left for one that fails.
        assert_eq!((office.tried(), office.prepared()), (3 * MAILS, MAILS));
    }

    async fn r26_two_processes_that_go_on_at_once_run_each_once(db) {
        let (one, other, office) = (db.store(4).await, db.store(4).await, Office::failing(20));
        for id in 0..20 {
            assert!(mails::send(&one, &mail(id, "u1"), &office).await.is_err());
        }
        let (first, second) = tokio::join!(mails::go_on(&one, &office), mails::go_on(&other, &office));
        assert!(first.succeeded + second.succeeded >= 20, "{first:?} {second:?}");
        assert_eq!((office.tried(), db.number(INPUTS).await), (40, 0));
    }

    async fn attempts_count_and_one_that_has_none_left_is_not_run(db) {
        let (store, office) = (db.store(4).await, Office::failing(3));
        for _ in 0..3 {
            assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
        }
        assert_eq!(mails::go_on(&store, &office).await, Resumed { succeeded: 0, failed: 1 });
        assert_eq!(office.tried(), 3);
    }

    async fn r22_an_input_that_cannot_be_read_is_not_run_and_stays(db) {
        let (store, office) = (db.store(4).await, Office::failing(1));
        assert!(mails::send(&store, &mail("k", "u1"), &office).await.is_err());
        db.execute("UPDATE idem_steps SET body = claim WHERE position = -1").await;
        assert_eq!(mails::go_on(&store, &office).await, Resumed { succeeded: 0, failed: 1 });
        assert_eq!((office.tried(), db.number(INPUTS).await), (1, 1));
        assert_eq!(mails::send(&store, &mail("k", "u1"), &office).await.expect("its caller can"), "u1");
    }

    async fn r32_the_input_of_an_expired_run_is_forgotten(db) {
        let (store, office) = (db.store(4).await, Office::failing(2));
        assert!(mails::send(&store, &mail("k", "old"), &office).await.is_err());
        db.expire().await;
        assert_eq!(mails::go_on(&store, &office).await, Resumed::default());
        assert!(mails::send(&store, &mail("k", "new"), &office).await.is_err());
        assert_eq!(mails::go_on(&store, &office).await, Resumed { succeeded: 1, failed: 0 });
        assert_eq!(mails::send(&store, &mail("k", "new"), &office).await.expect("sent"), "new");
    }

    async fn the_input_may_be_made_of_several_arguments_and_read_in_a_task(db) {
        let (store, office) = (db.store(4).await, std::sync::Arc::new(Office::failing(1)));
        assert!(mails::parts(&store, "k", "u1", &office).await.is_err());
        let (of_task, in_task) = (store.clone(), office.clone());
        let resumed = tokio::spawn(async move {
            let run = async |(id, to): (String, String)| mails::parts(&of_task, &id, &to, &in_task).await;
            of_task.resume_abandoned("mails.parts", run).await
        });
        assert_eq!(resumed.await.expect("a task").expect("an answer"), Resumed { succeeded: 1, failed: 0 });
        assert_eq!(mails::parts(&store, "k", "u1", &office).await.expect("replayed"), "u1");
        assert_eq!(office.tried(), 2);
    }
}
