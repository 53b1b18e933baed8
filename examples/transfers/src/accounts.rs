//! Accounts, and money between them: each call runs once.

use idem_core::idempotent;
use idem_sqlx::SqliteTx;
use serde::{Deserialize, Serialize};

/// An account that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its number.
    pub id: i64,
    /// Its balance, in minor units.
    pub balance: i64,
}

/// Money to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The account that pays. It must be the caller's.
    pub from: i64,
    /// The account that is paid. It may be any account.
    pub to: i64,
    /// In minor units, above 0.
    pub amount: i64,
}

/// Money that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The remaining balance of the account that paid.
    pub left: i64,
}

/// Why no money was moved.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum TransferError {
    /// The order makes no sense.
    #[error("an amount is above 0, and goes to another account")]
    Invalid,
    /// An account does not exist, or the paying account is not the caller's.
    #[error("no such account")]
    NoSuchAccount,
    /// The balance of the paying account is too low.
    #[error("not enough on the account")]
    NotEnough,
    /// The store refused the call, or could not be asked.
    #[error(transparent)]
    #[serde(skip)]
    Store(#[from] idem_core::Error),
}

impl TransferError {
    /// Whether a retry gets the same answer, even if there is money by then: its caller may have given the transfer up.
    fn is_final(&self) -> bool {
        match self {
            Self::Invalid | Self::NoSuchAccount | Self::NotEnough => true,
            Self::Store(_) => false,
        }
    }
}

impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(idem_sqlx::into_idem_error(error))
    }
}

/// Opens an account with a first deposit. `request` is the caller's name for this call.
///
/// # Errors
/// As [`TransferError::Store`] says.
#[idempotent(key = request, scope = owner, ttl = "7d", operation = "accounts.open")]
pub async fn open_account(
    tx: &mut SqliteTx,
    owner: &str,
    request: &str,
    name: &str,
    deposit: i64,
) -> Result<Account, TransferError> {
    let insert = "INSERT INTO accounts (owner, name, balance) VALUES ($1, $2, $3) RETURNING id";
    let id = sqlx::query_scalar(insert).bind(owner).bind(name).bind(deposit).fetch_one(tx).await?;
    Ok(Account { id, balance: deposit })
}

/// Moves money. `request` is the caller's name for this transfer, the same on every retry.
///
/// Both accounts and the record change together, or nothing changes.
///
/// # Errors
/// [`TransferError`]. An error other than [`Store`](TransferError::Store) is also the answer to every retry.
#[idempotent(
    key = request,
    scope = owner,
    ttl = "7d",
    operation = "accounts.transfer",
    rejects = TransferError::is_final
)]
pub async fn transfer(tx: &mut SqliteTx, owner: &str, request: &str, order: &Order) -> Result<Moved, TransferError> {
    let Order { from, to, amount } = *order;
    if amount <= 0 || from == to {
        return Err(TransferError::Invalid);
    }
    let pay = "UPDATE accounts SET balance = balance - $1 WHERE id = $2 AND owner = $3 AND balance >= $1
               RETURNING balance";
    let paid = sqlx::query_scalar(pay).bind(amount).bind(from).bind(owner).fetch_optional(&mut *tx).await?;
    let Some(left) = paid else {
        let is_there = "SELECT count(*) FROM accounts WHERE id = $1 AND owner = $2";
        let is_there: i64 = sqlx::query_scalar(is_there).bind(from).bind(owner).fetch_one(tx).await?;
        return Err(if is_there == 0 { TransferError::NoSuchAccount } else { TransferError::NotEnough });
    };
    let receive = "UPDATE accounts SET balance = balance + $1 WHERE id = $2";
    let received = sqlx::query(receive).bind(amount).bind(to).execute(tx).await?.rows_affected();
    if received == 0 {
        // The payment is rolled back with everything else.
        return Err(TransferError::NoSuchAccount);
    }
    Ok(Moved { left })
}
