//! A connection to Postgres that can be cut, held or silenced, at a COMMIT or at any message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens at the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None = 0,
    /// It never reaches the server, and the connection is cut.
    CutBefore = 1,
    /// It reaches the server, and the connection is cut in place of the answer.
    CutAfter = 2,
    /// It reaches the server, and the answer never comes.
    Hang = 3,
    /// It reaches the server when it is [let through](Proxy::let_through).
    Hold = 4,
}

/// Passes everything on, until it is told to strike. It strikes once.
#[derive(Debug, Clone)]
pub struct Proxy {
    port: u16,
    fault: Arc<AtomicU8>,
    /// How many COMMITs pass before.
    pass: Arc<AtomicUsize>,
    struck: Arc<AtomicUsize>,
    held: Arc<Notify>,
    /// Whether every message of a client counts, and not only a COMMIT.
    counts_all: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn before(server: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (fault, pass, struck, held, counts_all) = Default::default();
        let proxy = Self { port, fault, pass, struck, held, counts_all };
        let target = format!("{}:{}", server.get_host(), server.get_port());
        let passing = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("the server");
                tokio::spawn(passing.clone().pass(client, server));
            }
        });
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn at_next_commit(&self, fault: Fault) {
        self.at_commit(0, fault);
    }

    /// Strikes when so many messages have passed, of whatever kind.
    pub fn at_message(&self, pass: usize, fault: Fault) {
        self.at_commit(pass, fault);
        self.counts_all.store(true, Ordering::SeqCst);
    }

    /// Strikes when so many have passed.
    pub fn at_commit(&self, pass: usize, fault: Fault) {
        self.counts_all.store(false, Ordering::SeqCst);
        self.pass.store(pass, Ordering::SeqCst);
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    /// Lets the COMMIT go on that is held.
    pub fn let_through(&self) {
        self.held.notify_one();
    }

    /// How often it struck.
    pub fn struck(&self) -> usize {
        self.struck.load(Ordering::SeqCst)
    }

    async fn pass(self, client: TcpStream, server: TcpStream) {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let silence = Arc::new(Notify::new());
        let answers = tokio::spawn(copy(from_server, to_client, Arc::clone(&silence)));
        self.requests(from_client, to_server, &answers, &silence).await;
        answers.abort();
    }

    async fn requests(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        answers: &tokio::task::JoinHandle<()>,
        silence: &Notify,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            let sent = &buffer[..length];
            // A simple query, as sqlx sends it: alone in its packet.
            let counts = self.counts_all.load(Ordering::SeqCst);
            if counts || sent.windows(8).any(|bytes| bytes == b"\x0bCOMMIT\0") {
                let passes = self.pass.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                let fault = if passes.is_ok() {
                    Fault::None as u8
                } else {
                    self.fault.swap(Fault::None as u8, Ordering::SeqCst)
                };
                if fault != Fault::None as u8 {
                    self.struck.fetch_add(1, Ordering::SeqCst);
                }
                if fault == Fault::Hold as u8 {
                    self.held.notified().await;
                } else if fault != Fault::None as u8 {
                    if fault == Fault::Hang as u8 {
                        silence.notify_one();
                    } else {
                        answers.abort();
                    }
                    if fault != Fault::CutBefore as u8 {
                        let _gone = to.write_all(sent).await;
                    }
                    if fault == Fault::Hang as u8 {
                        // Until the client closes its side.
                        while matches!(from.read(&mut buffer).await, Ok(1..)) {}
                    }
                    return;
                }
            }
            if to.write_all(sent).await.is_err() {
                return;
            }
        }
    }
}

/// Passes the answers on. Silent, it passes nothing on, and keeps the connection open.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, silence: Arc<Notify>) {
    tokio::select! {
        biased;
        () = silence.notified() => std::future::pending().await,
        _ended = tokio::io::copy(&mut from, &mut to) => {}
    }
}
