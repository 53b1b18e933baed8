//! The `#[idempotent]` attribute. Use it through `idem_core`, which re-exports it.

mod args;
mod check;
mod duration;
mod errors;
mod expand;
mod fallback;
#[cfg(test)]
mod fuzz;
mod item;
mod nearest;
mod outside;
mod parameters;
#[cfg(test)]
mod snapshots;
mod suffix;
mod variants;

use proc_macro2::TokenStream;

use crate::args::Args;
use crate::check::{Form, check};
use crate::errors::Errors;
use crate::item::Function;
use crate::variants::{Variant, variants};

/// Runs an Axum handler, or any async function, once for each idempotency key, and gives every retry the first answer.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ui/support.rs"));
/// # type ApiError = StatusCode;
/// # async fn insert_payment(_: &mut PgTx, user: &CurrentUser, _: &NewPayment) -> Result<Payment, ApiError> {
/// #     Ok(Payment { id: user.id })
/// # }
/// #[idempotent(scope = user, ttl = "24h")]
/// async fn create_payment(
///     user: CurrentUser,
///     tx: &mut PgTx, // the idempotency transaction
///     Json(order): Json<NewPayment>,
/// ) -> Result<(StatusCode, Json<Payment>), ApiError> {
///     let payment = insert_payment(tx, &user, &order).await?;
///     Ok((StatusCode::CREATED, Json(payment)))
/// }
///
/// # fn main() {
/// let app: Router<PgStore> = Router::new().route("/payments", post(create_payment));
/// # }
/// ```
///
/// The claim on the request's `Idempotency-Key`, every row that the handler writes through `tx`, and its reply are one
/// commit. Before the commit nothing has happened, and a retry runs. After the commit everything has happened, and a
/// retry gets the stored reply.
///
/// With a `key = …` over its parameters, a function needs no HTTP: a message consumer, a job, a method. Its callers
/// pass the store in place of the context. Everything else in its signature stays as it was.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ui/support.rs"));
/// # #[derive(serde::Serialize)] struct Shipped { id: String, items: u64 }
/// # async fn take_out(_: &mut PgTx, event: &Shipped) -> Result<u64, idem_core::Error> { Ok(event.items) }
/// #[idempotent(key = event.id, scope = "inventory", ttl = "7d")]
/// async fn on_shipped(tx: &mut PgTx, event: &Shipped) -> Result<u64, idem_core::Error> {
///     take_out(tx, event).await
/// }
///
/// # async fn consume(store: PgStore, event: Shipped) -> Result<(), idem_core::Error> {
/// let left = on_shipped(&store, &event).await?;
/// # Ok(())
/// # }
/// # fn main() {}
/// ```
///
/// # Arguments
///
/// | argument | meaning | default |
/// |---|---|---|
/// | `scope = EXPR` | who owns the key: an expression over the parameters (`user`, `user.id`, `(tenant.id, user.id)`, `"invoices"`), or the bare word `global` | none: required |
/// | `ttl = "24h"` | how long a finished record is replayed, from its completion on (less at most a hundredth, if the run was that short); a number and one of `s`, `m`, `h`, `d`, `w`, from `"1s"` to `"3650d"` | `"24h"` |
/// | `then = run` / `refuse("30d")` | what a retry gets after the `ttl`: it runs as a new request, or is refused for this time with 410 `retry_too_late`, and with 422 if its content differs | `run` |
/// | `first_sent = ignore` / `refuse` | whether a request without a record is refused with 412 `first_sent_too_old`, instead of run, if it was first sent longer ago than the `ttl`; the time is in `Idempotency-First-Sent`, in `Repeatability-First-Sent`, or in a key that is a UUID of version 7 | `ignore` |
/// | `key = header("Name")` | the header that holds the key | `header("Idempotency-Key")` |
/// | `axum, key = EXPR` | the key is an expression over the parameters instead, such as a webhook's `event.id`; `GET`, `HEAD` and `OPTIONS` are then recorded, too | – |
/// | `key = EXPR` without `axum` | a plain function, and its key | – |
/// | `fingerprint = EXPR` / `none` | what must be equal on a retry, such as `(order.customer_id, order.amount)`; over HTTP, method, path and query are compared as well, with `none` only the path | the whole request; all arguments of a plain function |
/// | `in_flight = conflict` / `wait("5s")` / `accepted` | what a duplicate gets while the first request still runs: 409, a wait of `"1ms"` to `"5m"`, or 202 | `conflict` |
/// | `missing_key = reject` / `run` | what a request without a key gets: 400, or an ordinary run with nothing recorded | `reject` |
/// | `operation = "payments.create"` | the handler's stable name, 1 to 255 bytes; set it before you rename or move a handler whose records are still to be replayed | module path and function name |
/// | `deadline = "30s"` | how long a run may take, from `"100ms"` to `"24h"`; at its end the run is dropped and rolled back, and its caller gets `deadline_exceeded` | the store's: 60 seconds |
/// | `lease = "30s"` | leased handlers: how long the right to run lives without a renewal, from `"1s"` to `"1h"`; the lease is renewed every third of that time | `"30s"` |
/// | `attempts = 10` | leased handlers: how many attempts of a run may end by a crash or a lost lease before it waits for an operator, from 1 to 1000; attempts that fail are spaced instead | 10 |
/// | `rejects = PATH` | plain functions: `fn(&E) -> bool`, true where an error is final and is stored | no error is stored |
/// | `record_input = EXPR` | leased plain functions: the input that is recorded with the claim, so that `resume_abandoned` can resume a run whose caller does not retry | nothing is recorded |
/// | `crate = PATH` | the path of `idem_core` | `::idem_core` |
///
/// # Rules
///
/// - The handler is an `async fn`. Exactly one of its parameters, at any place, is `&mut` a context, such as
///   `tx: &mut PgTx` for one transaction or `steps: &mut PgSteps` for a leased run in recorded steps. All other
///   parameters are Axum's extractors, up to sixteen.
/// - The store comes from the router's state: `PgStore: FromRef<S>`. For a state that is an `Arc<App>`, write
///   `impl AsRef<PgStore> for App`.
/// - `scope`, `key` and `fingerprint` see every other parameter by reference, under the names that its pattern binds:
///   with `Json(order): Json<NewPayment>`, that is `order: &NewPayment`. They are evaluated once for each request,
///   after all extractors and before the claim. Parts of a tuple are borrowed, too: `(tenant.id, user.id)` moves
///   nothing.
/// - A scope implements `ToScope`: strings, integers, tuples of them, and types of yours. `Option` does not implement
///   it, so that anonymous callers cannot share a scope by accident. A key implements `ToKey`, a fingerprint
///   `serde::Serialize`.
/// - A plain function returns `Result<T, E>`: `T` is `Serialize + DeserializeOwned`, `E` is `From<idem_core::Error>`,
///   and with `rejects` it is stored like `T`. `Ok` commits, `Err` releases, a final `Err` rejects. A stored result
///   keeps the name of its type. If the function now returns a type of another name, the call is `record_unreadable`,
///   and nothing runs.
/// - A plain function may be generic, borrow its arguments, and be a method with `&self`, also in a trait's `impl`. A
///   method, or an associated function whose signature says `Self`, needs an `operation`. `observe` tells whether a
///   result was replayed.
/// - A method must name `self` in its scope, key or fingerprint, as in `scope = self.name`. Otherwise a call on another
///   `self` would get the result of this one. The default fingerprint is all arguments without `self`. If the result
///   does not depend on `self`, write a free function, and pass what it needs as an argument.
/// - A key that is blank or `None` is an error of the kind `KeyMissing`.
/// - Other attributes stay. On a plain function, all of them see the store in the context's place. On a handler,
///   documentation, lint levels and `#[axum::debug_handler]` go to the outer function, which Axum sees; all others
///   (`#[tracing::instrument]`) go to your function. A macro above this attribute comes first and sees the function as
///   you wrote it. So write `#[axum::debug_handler(state = …)]` *below*, because `&mut PgTx` is no extractor; it then
///   checks the store, too. Lint levels may forbid what they like: the expansion sets none. Write a
///   macro that makes items beside a handler, such as `#[utoipa::path]`, *above*: below, the items would be inside the
///   outer function, where no code can name them.
///
/// # What it stands for
///
/// The function above becomes this. Your function is inside. It says that a parameter which the attribute uses is used;
/// nothing else is added to it. The added code calls the library.
///
/// ```ignore
#[doc = include_str!("../tests/expansion/payment.out.rs")]
/// ```
///
/// # Errors
///
/// A mistake in the attribute or in the signature is a compile error on the token that is wrong, with what to write
/// instead. All mistakes that the attribute itself sees are reported together, and routes that mention the handler
/// still resolve. Mistakes that only the types show are reported after that. The page `idem_core::compiler` has all of
/// them.
///
/// Over HTTP, a refusal or failure that the handler did not answer itself is `application/problem+json` with a stable
/// `code`.
///
/// # Cancel safety
///
/// A handler's claimed run continues in a task of its own when the client hangs up or a timeout layer fires. A retry
/// replays it. The tracing span moves into the task with the run. Task-locals are there until then, and gone
/// afterwards: pass their values as an extractor. A request that is not claimed, or an unrecorded run in one
/// transaction, is dropped with its client and has kept nothing. A plain function's future belongs to the caller:
/// dropped at any await, it has kept everything or nothing.
///
/// # Limitations
///
/// - An effect outside of the context (a call to another service, a message, a file) is not part of the commit. After a
///   crash or a failed commit, a retry repeats the effect.
/// - A reply must have an end: `Sse` and `WebSocketUpgrade` are refused by name.
/// - A future that is not `Send` cannot be run in a task of its own, and does not compile.
/// - A handler is a free function, or an associated function without `self` and `Self`. In an `impl<B: Bank> Api<B>`,
///   it cannot name `B`, because it is moved into another function (rustc says E0401). Make it a free function with a
///   `B` of its own.
/// - A plain function that calls another plain function holds two connections meanwhile. On SQLite the inner call waits
///   for the write lock of the outer call, and fails as busy.
/// - A context cannot be generic: its type decides how the handler runs.
/// - `#[cfg(…)]` on parameters may have four different conditions, since each of them doubles the expansion.
/// - Without an `operation`, a function is known by its module and its name. Two associated functions with the same
///   name in two `impl` blocks then have the same operation, and so do two functions with the same name inside two
///   other functions: with the same scope and key they have one record. Give each function an `operation`; a plain
///   function whose signature says `self` or `Self` must have one. All instances of a generic function also share their
///   operation: put what tells them apart into the scope or the key.
#[proc_macro_attribute]
pub fn idempotent(args: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(args.into(), item.into()).into()
}

/// The only place where tokens and errors are joined.
fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let function: Function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => return TokenStream::from_iter([error.into_compile_error(), item]),
    };
    let expand = |variant: &Variant| {
        let mut errors = Errors::default();
        let args = Args::parse(args.clone(), &mut errors);
        let form = Form::of(&args, &variant.function);
        match check(&args, errors, &variant.function) {
            Ok(handler) => variant.only_here([expand::expand(&handler)]),
            Err(error) => {
                let errors = error.into_iter().map(syn::Error::into_compile_error);
                variant.only_here(errors.chain([fallback::expand(&variant.function, form)]))
            }
        }
    };
    let variants = match variants(function.clone()) {
        Ok(variants) => variants,
        // Parameters keep their conditions here, so calls and routes resolve.
        Err(error) => {
            let form = Form::of(&Args::parse(args, &mut Errors::default()), &function);
            return TokenStream::from_iter([error.into_compile_error(), fallback::expand(&function, form)]);
        }
    };
    variants.iter().map(expand).collect()
}
