//! A connection to Postgres that can be cut, held or silenced, at a COMMIT or at any message.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What happens at the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It never reaches the server, and the connection is cut.
    CutBefore,
    /// It reaches the server, and the connection is cut in place of the answer.
    CutAfter,
    /// It reaches the server, and the answer never comes.
    Hang,
    /// It reaches the server when it is [let through](Proxy::let_through).
    Hold,
    /// It reaches the server, and the connection is cut in place of the answer when it is let through.
    CutLater,
}

/// Passes everything on, until it is told to strike. It strikes once for each fault.
#[derive(Debug, Clone)]
pub struct Proxy {
    port: u16,
    /// One for each of the next COMMITs.
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// How many COMMITs pass before.
    pass: Arc<AtomicUsize>,
    struck: Arc<AtomicUsize>,
    /// How many messages of clients have passed.
    messages: Arc<AtomicUsize>,
    held: Arc<Notify>,
    /// Whether every message of a client counts, and not only a COMMIT.
    counts_all: Arc<AtomicBool>,
    /// What happens to all connections that are open.
    all: Arc<watch::Sender<(u32, Fault)>>,
}

impl Proxy {
    pub async fn before(server: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (faults, pass, struck, messages, held, counts_all) = Default::default();
        let all = Arc::new(watch::Sender::new((0, Fault::None)));
        let proxy = Self { port, faults, pass, struck, messages, held, counts_all, all };
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
        self.at_next_commits(&[fault]);
    }

    pub fn at_next_commits(&self, faults: &[Fault]) {
        *self.faults.lock().expect("no panic") = faults.iter().copied().collect();
    }

    /// Lets the COMMIT go on that is held.
    pub fn let_through(&self) {
        self.held.notify_one();
    }

    /// How often it struck.
    pub fn struck(&self) -> usize {
        self.struck.load(Ordering::SeqCst)
    }

    /// Cuts all open connections.
    pub fn cut_all(&self) {
        self.all.send_modify(|(number, fault)| (*number, *fault) = (*number + 1, Fault::CutBefore));
    }

    /// No open connection passes anything on any more, nor does one that is opened later.
    pub fn silence_all(&self) {
        self.all.send_modify(|(number, fault)| (*number, *fault) = (*number + 1, Fault::Hang));
    }

    /// How many messages of clients have come: sqlx sends one and waits for its answer.
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::SeqCst)
    }

    async fn pass(self, client: TcpStream, server: TcpStream) {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let is_mute = Arc::new(AtomicBool::new(false));
        let answers = tokio::spawn(copy(from_server, to_client, is_mute.clone()));
        let mut all = self.all.subscribe();
        let is_struck = async {
            if all.borrow_and_update().1 != Fault::Hang {
                let struck = all.changed().await;
                struck.expect("the proxy lives as long as its connections");
            }
            if all.borrow().1 == Fault::Hang {
                is_mute.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = is_struck => {}
            () = self.requests(from_client, to_server, &is_mute) => {}
        }
        answers.abort();
    }

    async fn requests(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_mute: &AtomicBool) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            let sent = &buffer[..length];
            self.messages.fetch_add(1, Ordering::SeqCst);
            // A simple query, as sqlx sends it: alone in its packet. From far away it has the completion in it.
            let counts = self.counts_all.load(Ordering::SeqCst);
            let has = |words: &[u8]| sent.windows(words.len()).any(|bytes| bytes == words);
            if counts || has(b"\x0bCOMMIT\0") || has(b"; COMMIT; BEGIN\0") {
                let passes = self.pass.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                let fault = match passes {
                    Ok(_) => Fault::None,
                    Err(_) => self.faults.lock().expect("no panic").pop_front().unwrap_or(Fault::None),
                };
                if fault != Fault::None {
                    self.struck.fetch_add(1, Ordering::SeqCst);
                }
                if fault == Fault::Hold {
                    self.held.notified().await;
                } else if fault != Fault::None {
                    is_mute.store(true, Ordering::SeqCst);
                    if fault != Fault::CutBefore {
                        let _gone = to.write_all(sent).await;
                    }
                    if fault == Fault::CutLater {
                        self.held.notified().await;
                    }
                    if fault == Fault::Hang {
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

/// Passes answers on, as long as it may.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_mute: Arc<AtomicBool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !is_mute.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
