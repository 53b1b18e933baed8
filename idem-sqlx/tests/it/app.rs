//! The application under test: handlers that do as they are told, the same source for both databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;
use idem_core::{Error, Key, Scope, ToKey, ToScope};
use idem_testkit::logs::CANARY;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Semaphore;

/// Small, so that a reply over it is quickly made.
pub const REPLY_LIMIT: usize = 10_000;

/// What tests see and hold of the application.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<(AtomicUsize, Semaphore, AtomicUsize)>);

impl Gauge {
    pub fn new() -> Self {
        Self(Arc::new((AtomicUsize::new(0), Semaphore::new(0), AtomicUsize::new(0))))
    }

    /// How often a handler's body was entered.
    pub fn entered(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    /// How often a handler came to wait, with its effect written.
    pub fn waited(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }

    /// Lets this many handlers that wait go on.
    pub fn open(&self, handlers: usize) {
        self.0.1.add_permits(handlers);
    }

    /// Takes back what no handler used.
    pub fn close(&self) {
        self.0.1.forget_permits(usize::MAX);
    }

    pub fn enter(&self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }

    pub async fn pass(&self) {
        self.0.2.fetch_add(1, Ordering::SeqCst);
        self.0.1.acquire().await.expect("an open gate").forget();
    }
}

/// The caller: header `x-user`, or 401.
#[derive(Debug, Clone)]
pub struct User(pub String);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, StatusCode> {
        let user = parts.headers.get("x-user").and_then(|user| user.to_str().ok());
        user.map(|user| Self(user.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
    }
}

impl ToScope for User {
    fn to_scope(&self) -> Result<Scope, Error> {
        let canary = if self.0.is_empty() { "" } else { CANARY };
        format!("{}{canary}", self.0).to_scope()
    }
}

/// What a handler is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    pub act: String,
    #[serde(default)]
    pub note: serde_json::Value,
}

/// A webhook's event: its key is in its body.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    pub id: Option<String>,
    pub act: String,
}

/// A value of a user's type that panics where it is asked for this.
#[derive(Debug)]
pub struct Touchy {
    pub at: String,
}

impl Touchy {
    fn touched(&self, as_what: &str) -> &str {
        assert!(self.at != as_what, "as told");
        &self.at
    }
}

impl ToScope for Touchy {
    fn to_scope(&self) -> Result<Scope, Error> {
        self.touched("scope").to_scope()
    }
}

impl ToKey for Touchy {
    fn to_key(&self) -> Result<Option<Key>, Error> {
        self.touched("key").to_key()
    }
}

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.touched("fingerprint"))
    }
}

macro_rules! application {
    ($module:ident, $Store:ident, $Tx:ident, $slow:literal) => {
        pub mod $module {
            use axum::body::Body;
            use axum::extract::{DefaultBodyLimit, FromRef, Path, State};
            use axum::http::{HeaderName, HeaderValue, StatusCode};
            use axum::response::{IntoResponse, Response};
            use axum::routing::{any, get, post};
            use axum::{Json, Router};
            use idem_core::{Disposition, idempotent};
            use idem_sqlx::{$Store, $Tx};
            use sqlx::Connection;

            use idem_testkit::logs::CANARY;

            use super::{Command, Event, Gauge, REPLY_LIMIT, Touchy, User};

            fn touchy(at: &str) -> Touchy {
                Touchy { at: at.to_owned() }
            }

            #[derive(Clone)]
            pub struct App {
                store: $Store,
                gauge: Gauge,
            }

            impl FromRef<App> for $Store {
                fn from_ref(app: &App) -> Self {
                    app.store.clone()
                }
            }

            pub fn app(store: $Store) -> (Router, Gauge) {
                let gauge = Gauge::new();
                let router = Router::new()
                    .route("/act", any(act))
                    .route("/act/{id}", any(act))
                    .route("/other", post(other))
                    .nest(
                        "/nested",
                        Router::new()
                            .route("/act", post(act))
                            .route("/part/{id}", any(part))
                            .route("/nothing/{id}", any(nothing)),
                    )
                    .route("/wait", post(wait))
                    .route("/impatient", post(impatient))
                    .route("/accepted", post(accepted))
                    .route("/optional", post(optional))
                    .route("/x-key", post(x_key))
                    .route("/event", post(event))
                    .route("/link/{id}", any(link))
                    .route("/get-link/{id}", get(link))
                    .route("/touchy/{at}", any(touched))
                    .route("/touchy-scope/{at}", any(touched_scope))
                    .route("/short", post(short))
                    .route("/kept", post(kept))
                    .route("/in-time", post(in_time))
                    .route("/brief", any(brief))
                    .route("/named", post(named))
                    .route("/part", any(part))
                    .route("/part/{id}", any(part))
                    .route("/nothing", any(nothing))
                    .route("/nothing/{id}", any(nothing))
                    .route("/everybody", post(everybody))
                    .route("/pair", post(pair))
                    .route("/bytes", post(bytes))
                    .route("/small", post(act).layer(DefaultBodyLimit::max(100)))
                    .with_state(App { store, gauge: gauge.clone() });
                (router, gauge)
            }

            #[idempotent(scope = user, ttl = "1h", operation = "act")]
            async fn act(user: User, State(app): State<App>, tx: &mut $Tx, command: Option<Json<Command>>) -> Response {
                let command = command.map_or_else(|| "insert".to_owned(), |Json(command)| command.act);
                perform(&app, tx, &user, &command).await
            }

            #[idempotent(scope = user, ttl = "1h", then = refuse("30d"))]
            async fn kept(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, ttl = "1h", then = refuse("1h"), first_sent = refuse)]
            async fn in_time(
                user: User,
                State(app): State<App>,
                tx: &mut $Tx,
                Json(command): Json<Command>,
            ) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, operation = "other")]
            async fn other(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, in_flight = wait("30s"))]
            async fn wait(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, in_flight = wait("50ms"))]
            async fn impatient(
                user: User,
                State(app): State<App>,
                tx: &mut $Tx,
                Json(command): Json<Command>,
            ) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, in_flight = accepted)]
            async fn accepted(
                user: User,
                State(app): State<App>,
                tx: &mut $Tx,
                Json(command): Json<Command>,
            ) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, missing_key = run)]
            async fn optional(
                user: User,
                State(app): State<App>,
                tx: &mut $Tx,
                Json(command): Json<Command>,
            ) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, key = header("X-Key"))]
            async fn x_key(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = "events", axum, key = event.id)]
            async fn event(State(app): State<App>, tx: &mut $Tx, Json(event): Json<Event>) -> Response {
                perform(&app, tx, &User("sender".to_owned()), &event.act).await
            }

            #[idempotent(scope = "links", axum, key = id)]
            async fn link(State(app): State<App>, tx: &mut $Tx, Path(id): Path<String>) -> Response {
                perform(&app, tx, &User(id), "insert").await
            }

            #[idempotent(scope = touchy(&at), axum, key = touchy(&at), fingerprint = (touchy(&at), at.split_once('-').unwrap()))]
            async fn touched(State(app): State<App>, tx: &mut $Tx, Path(at): Path<String>) -> Response {
                perform(&app, tx, &User(at), "insert").await
            }

            #[idempotent(scope = touchy(&at))]
            async fn touched_scope(State(app): State<App>, tx: &mut $Tx, Path(at): Path<String>) -> Response {
                perform(&app, tx, &User(at), "insert").await
            }

            #[idempotent(scope = user, ttl = "2s")]
            async fn short(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            /// Writes an effect that is named after the key, and hangs if it is told to.
            #[idempotent(scope = user, fingerprint = ())]
            async fn named(user: User, headers: http::HeaderMap, tx: &mut $Tx) -> Response {
                let key = headers["idempotency-key"].to_str().expect("a key");
                insert(tx, &user, key).await;
                if headers["x-hangs"] == "yes" {
                    std::future::pending::<()>().await;
                }
                StatusCode::CREATED.into_response()
            }

            #[idempotent(scope = user, deadline = "400ms", missing_key = run)]
            async fn brief(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, fingerprint = command.act)]
            async fn part(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user, fingerprint = none)]
            async fn nothing(
                user: User,
                State(app): State<App>,
                tx: &mut $Tx,
                Json(command): Json<Command>,
            ) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = global)]
            async fn everybody(
                user: User,
                State(app): State<App>,
                tx: &mut $Tx,
                Json(command): Json<Command>,
            ) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = (user.0, command.act))]
            async fn pair(user: User, State(app): State<App>, tx: &mut $Tx, Json(command): Json<Command>) -> Response {
                perform(&app, tx, &user, &command.act).await
            }

            #[idempotent(scope = user)]
            async fn bytes(user: User, State(app): State<App>, tx: &mut $Tx, body: axum::body::Bytes) -> Response {
                assert!(body.len() < 1_000_000);
                perform(&app, tx, &user, "insert").await
            }

            async fn insert(tx: &mut $Tx, user: &User, what: &str) {
                sqlx::query("INSERT INTO effects (who, what) VALUES ($1, $2)")
                    .bind(user.0.clone())
                    .bind(what.to_owned())
                    .execute(&mut *tx)
                    .await
                    .expect("an effect");
            }

            async fn raw(tx: &mut $Tx, sql: &'static str) -> bool {
                sqlx::raw_sql(sql).execute(&mut **tx).await.is_ok()
            }

            /// Writes an effect, and then does what the command says.
            async fn perform(app: &App, tx: &mut $Tx, user: &User, command: &str) -> Response {
                app.gauge.enter();
                let run = app.gauge.entered();
                insert(tx, user, command).await;
                let headers = [("location", "/effects/1"), ("x-secret", CANARY)];
                let done = (StatusCode::CREATED, headers, format!("run {run} for {}", user.0));
                match command {
                    "insert" => done.into_response(),
                    "wait" => {
                        app.gauge.pass().await;
                        done.into_response()
                    }
                    "wait_and_fail" => {
                        app.gauge.pass().await;
                        StatusCode::BAD_GATEWAY.into_response()
                    }
                    "hang" => std::future::pending().await,
                    "endless_body" => {
                        Body::from_stream(futures_util::stream::pending::<Result<&str, std::io::Error>>())
                            .into_response()
                    }
                    "slow_statement" => {
                        drop(sqlx::raw_sql($slow).execute(&mut **tx).await);
                        done.into_response()
                    }
                    "impatient" => {
                        let slow = sqlx::raw_sql($slow).execute(&mut **tx);
                        let limit = std::time::Duration::from_millis(200);
                        tokio::time::timeout(limit, slow).await.expect_err("it is slow");
                        StatusCode::GATEWAY_TIMEOUT.into_response()
                    }
                    "slow" => {
                        // A noticeable part of two seconds.
                        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                        done.into_response()
                    }
                    "redirect" => (StatusCode::SEE_OTHER, [("location", "/effects/1")]).into_response(),
                    "not_found" => (StatusCode::NOT_FOUND, format!("run {run}")).into_response(),
                    "fail" => (StatusCode::INTERNAL_SERVER_ERROR, format!("run {run}")).into_response(),
                    "reject" => {
                        (StatusCode::PAYMENT_REQUIRED, Disposition::Reject, format!("run {run}")).into_response()
                    }
                    "commit_error" => (StatusCode::CONFLICT, Disposition::Commit, format!("run {run}")).into_response(),
                    "release_ok" => (StatusCode::OK, Disposition::Release, format!("run {run}")).into_response(),
                    "panic" => panic!("as told: {CANARY}"),
                    "swallow" => {
                        assert!(!raw(tx, "INSERT INTO effects VALUES (NULL, NULL)").await);
                        done.into_response()
                    }
                    "swallow_and_reject" => {
                        assert!(!raw(tx, "INSERT INTO effects VALUES (NULL, NULL)").await);
                        (StatusCode::PAYMENT_REQUIRED, Disposition::Reject).into_response()
                    }
                    "break_wait_and_reject" => {
                        assert!(!raw(tx, "INSERT INTO effects VALUES (NULL, NULL)").await);
                        app.gauge.pass().await;
                        (StatusCode::PAYMENT_REQUIRED, Disposition::Reject, format!("run {run}")).into_response()
                    }
                    "break_wait_and_fail" => {
                        assert!(!raw(tx, "INSERT INTO effects VALUES (NULL, NULL)").await);
                        app.gauge.pass().await;
                        StatusCode::BAD_GATEWAY.into_response()
                    }
                    "wait_and_reject" => {
                        app.gauge.pass().await;
                        (StatusCode::PAYMENT_REQUIRED, Disposition::Reject).into_response()
                    }
                    "panicking_body" => {
                        let chunks = futures_util::stream::once(async {
                            if true {
                                panic!("as told: {CANARY}");
                            }
                            Ok::<_, std::io::Error>("never")
                        });
                        Body::from_stream(chunks).into_response()
                    }
                    "raw_commit" => {
                        assert!(raw(tx, "COMMIT").await);
                        done.into_response()
                    }
                    "raw_commit_and_fail" => {
                        assert!(raw(tx, "COMMIT").await);
                        StatusCode::BAD_GATEWAY.into_response()
                    }
                    "raw_commit_and_panic" => {
                        assert!(raw(tx, "COMMIT").await);
                        panic!("as told: {CANARY}");
                    }
                    "raw_commit_and_begin" => {
                        assert!(raw(tx, "COMMIT").await && raw(tx, "BEGIN").await);
                        done.into_response()
                    }
                    "raw_rollback" => {
                        assert!(raw(tx, "ROLLBACK").await);
                        done.into_response()
                    }
                    "wait_and_raw_rollback" => {
                        app.gauge.pass().await;
                        assert!(raw(tx, "ROLLBACK").await);
                        done.into_response()
                    }
                    "raw_rollback_and_write" => {
                        assert!(raw(tx, "ROLLBACK").await);
                        assert!(raw(tx, "INSERT INTO effects VALUES ('u1', 'after the rollback')").await);
                        done.into_response()
                    }
                    "raw_rollback_and_fail" => {
                        assert!(raw(tx, "ROLLBACK").await);
                        assert!(raw(tx, "INSERT INTO effects VALUES ('u1', 'after the rollback')").await);
                        StatusCode::BAD_GATEWAY.into_response()
                    }
                    "raw_rollback_and_break" | "raw_rollback_break_and_fail" => {
                        assert!(raw(tx, "ROLLBACK").await);
                        assert!(raw(tx, "INSERT INTO effects VALUES ('u1', 'after the rollback')").await);
                        assert!(raw(tx, "BEGIN").await && !raw(tx, "INSERT INTO effects VALUES (NULL, NULL)").await);
                        if command == "raw_rollback_and_break" {
                            done.into_response()
                        } else {
                            StatusCode::BAD_GATEWAY.into_response()
                        }
                    }
                    "raw_rollback_and_reject" => {
                        assert!(raw(tx, "ROLLBACK").await);
                        (StatusCode::PAYMENT_REQUIRED, Disposition::Reject).into_response()
                    }
                    "savepoint" => {
                        let mut savepoint = (&mut **tx).begin().await.expect("a savepoint");
                        assert!(
                            sqlx::raw_sql("INSERT INTO effects VALUES (NULL, NULL)")
                                .execute(&mut *savepoint)
                                .await
                                .is_err()
                        );
                        savepoint.rollback().await.expect("back to the savepoint");
                        done.into_response()
                    }
                    "failed_begin_and_write" => {
                        // What a nested `begin_with` may do to the transaction around it is sqlx's affair.
                        assert!((&mut **tx).begin_with("SELECT 1").await.is_err());
                        assert!(raw(tx, "INSERT INTO effects VALUES ('u1', 'after the begin')").await);
                        done.into_response()
                    }
                    "raw_commit_and_forget" => {
                        assert!(raw(tx, "COMMIT").await && raw(tx, "BEGIN").await);
                        std::mem::forget((&mut **tx).begin().await.expect("a savepoint"));
                        done.into_response()
                    }
                    "forgotten_savepoint" => {
                        std::mem::forget((&mut **tx).begin().await.expect("a savepoint"));
                        done.into_response()
                    }
                    "headers" => {
                        let mut response = done.into_response();
                        for (name, value) in [
                            ("x-twice", b"one".as_slice()),
                            ("x-latin", b"caf\xe9"),
                            ("x-twice", b"two"),
                            ("etag", b"\"1\""),
                            ("set-cookie", b"session=secret"),
                            ("date", b"Sun, 22 Nov 2026 00:00:00 GMT"),
                            ("content-type", b"application/octet-stream"),
                        ] {
                            let name = HeaderName::from_static(name);
                            response.headers_mut().append(name, HeaderValue::from_bytes(value).expect("a value"));
                        }
                        response.headers_mut().remove("content-type");
                        let binary = HeaderValue::from_static("application/octet-stream");
                        response.headers_mut().insert("content-type", binary);
                        *response.body_mut() = Body::from(vec![0, 255, 10, 13, 0]);
                        response
                    }
                    "upstream" | "upstream_release" | "upstream_reject" => {
                        let disposition = match command {
                            "upstream" => Disposition::Commit,
                            "upstream_reject" => Disposition::Reject,
                            _ => Disposition::Release,
                        };
                        let headers = [
                            ("connection", "close, X-Hop"),
                            ("x-hop", "one"),
                            ("proxy-connection", "keep-alive"),
                            ("idempotent-replayed", "true"),
                            ("x-end", "two"),
                        ];
                        (disposition, headers, "from another server").into_response()
                    }
                    "span" => tracing::Span::current().metadata().map_or("", |span| span.name()).into_response(),
                    "skew" => {
                        // Every run reads what the other writes, so not both can have been first.
                        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM effects")
                            .fetch_one(&mut *tx)
                            .await
                            .expect("a count");
                        app.gauge.enter();
                        app.gauge.pass().await;
                        format!("{seen}").into_response()
                    }
                    "empty" => StatusCode::NO_CONTENT.into_response(),
                    "false" => Json(false).into_response(),
                    "zero" => Json(0).into_response(),
                    "empty_string" => Json("").into_response(),
                    "empty_list" => Json([0; 0]).into_response(),
                    "null" => Json(None::<u8>).into_response(),
                    "no_body" => ().into_response(),
                    "at_limit" => "x".repeat(REPLY_LIMIT - 100).into_response(),
                    "large" => "x".repeat(REPLY_LIMIT * 50).into_response(),
                    "large_and_rejected" => (Disposition::Reject, "x".repeat(REPLY_LIMIT * 50)).into_response(),
                    "large_stream" => {
                        let chunk = || Ok::<_, std::io::Error>("y".repeat(REPLY_LIMIT));
                        Body::from_stream(futures_util::stream::iter((0..7).map(move |_| chunk()))).into_response()
                    }
                    "broken_body" => {
                        let chunks =
                            [Ok("half of it"), Err(std::io::Error::other(format!("the source is gone: {CANARY}")))];
                        Body::from_stream(futures_util::stream::iter(chunks)).into_response()
                    }
                    other => panic!("no such command: {other}"),
                }
            }
        }
    };
}

application!(postgres, PgStore, PgTx, "SELECT pg_sleep(4)");
application!(
    sqlite,
    SqliteStore,
    SqliteTx,
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000000) SELECT count(*) FROM n"
);
