use std::fmt;

use crate::support::*;
use crate::twice::block_on;

use idem_core::{Error, Kind};

struct Till {
    name: String,
}

impl fmt::Display for Till {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Till {
    #[idempotent(key = id, scope = self.name, operation = "till.scope")]
    async fn by_its_scope(&self, tx: &mut PgTx, id: u64) -> Result<String, Error> {
        tx.write().await;
        Ok(format!("{id} {self}"))
    }

    #[idempotent(key = id, scope = ("tills", format!("{self}")), operation = "till.text")]
    async fn by_its_text(&self, tx: &mut PgTx, id: u64) -> Result<String, Error> {
        tx.write().await;
        Ok(format!("{id} {self}"))
    }

    #[idempotent(key = format!("{id} {}", self.name), scope = global, operation = "till.key")]
    async fn by_its_key(&self, tx: &mut PgTx, id: u64) -> Result<String, Error> {
        tx.write().await;
        Ok(format!("{id} {self}"))
    }

    #[idempotent(key = id, scope = global, operation = "till.fingerprint", fingerprint = (self.name, id))]
    async fn by_its_fingerprint(&self, tx: &mut PgTx, id: u64) -> Result<String, Error> {
        tx.write().await;
        Ok(format!("{id} {self}"))
    }
}

#[test]
fn no_self_gets_the_result_of_another() {
    let store = PgStore::default();
    let [one, two] = ["one", "two"].map(|name| Till { name: name.to_owned() });
    for _ in 0..2 {
        for till in [&one, &two] {
            let result = format!("1 {till}");
            assert_eq!(block_on(till.by_its_scope(&store, 1)).unwrap(), result);
            assert_eq!(block_on(till.by_its_text(&store, 1)).unwrap(), result);
            assert_eq!(block_on(till.by_its_key(&store, 1)).unwrap(), result);
        }
        assert_eq!(block_on(one.by_its_fingerprint(&store, 1)).unwrap(), "1 one");
        assert_eq!(block_on(two.by_its_fingerprint(&store, 1)).unwrap_err().kind(), Kind::KeyReused);
    }
    assert_eq!(store.writes(), 7);
}
