//! A network between the pool and the server: a proxy that passes on everything later than it came.
//!
//! Its threads belong to the system: tokio's timers tick in whole milliseconds. For each direction of a connection one
//! thread reads and stamps, and another waits and writes, so that what is on its way does not hold up what follows.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};

use crate::measure::{Spread, spread};

/// What a round trip takes, the server's answer to `SELECT 1` included: as between the zones of a region.
pub(crate) const ROUND_TRIP: Duration = Duration::from_micros(750);

pub(crate) struct Network {
    /// The server as it is reached through the proxy.
    pub(crate) server: PgConnectOptions,
    /// Milliseconds of a round trip without the proxy.
    pub(crate) loopback: f64,
    /// And with it, before each round.
    measured: Mutex<Vec<f64>>,
    /// Nanoseconds in one direction.
    delay: Arc<AtomicU64>,
}

impl Network {
    /// Starts the proxy.
    pub(crate) async fn before(server: &PgConnectOptions) -> Self {
        let loopback = round_trip(server).await;
        let delay = Arc::new(AtomicU64::new(ROUND_TRIP.as_nanos() as u64 / 2));
        let port = listen(format!("{}:{}", server.get_host(), server.get_port()), &delay).expect("a port");
        let server = server.clone().host("127.0.0.1").port(port);
        let network = Self { server, loopback, measured: Mutex::default(), delay };
        for _ in 0..8 {
            network.adjust().await;
        }
        network.measured.lock().expect("no panic").clear();
        network
    }

    /// Moves the delay to what gives [`ROUND_TRIP`]: a thread that sleeps wakes up late, by how much differs from
    /// machine to machine and with what else the machine does. It goes half of the way, so that a measurement on a busy
    /// machine does not spoil the next round.
    pub(crate) async fn adjust(&self) {
        let measured = round_trip(&self.server).await;
        let excess = (measured - ROUND_TRIP.as_secs_f64() * 1e3) * 1e6;
        let delay = self.delay.load(Ordering::Relaxed) as f64 - excess / 4.0;
        self.delay.store(delay.max(0.0) as u64, Ordering::Relaxed);
        self.measured.lock().expect("no panic").push(measured);
    }

    /// Milliseconds of a round trip, as it was before the rounds.
    pub(crate) fn measured(&self) -> Spread {
        spread(self.measured.lock().expect("no panic").clone())
    }
}

/// Milliseconds from a question to its answer.
async fn round_trip(server: &PgConnectOptions) -> f64 {
    let mut connection = PgConnection::connect_with(server).await.expect("the server of IDEM_TEST_POSTGRES");
    let mut times = Vec::new();
    for _ in 0..150 {
        let begin = Instant::now();
        connection.execute("SELECT 1").await.expect("an answer");
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    connection.close().await.expect("a clean close");
    // The first ones touch what is cold.
    spread(times.split_off(50)).median
}

/// Returns the port.
fn listen(target: String, delay: &Arc<AtomicU64>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let delay = Arc::clone(delay);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&target).expect("the server");
            pass(&client, &server, &delay).and_then(|()| pass(&server, &client, &delay)).expect("a connection's ends");
        }
    });
    Ok(port)
}

/// Passes on one direction of a connection.
fn pass(from: &TcpStream, to: &TcpStream, delay: &Arc<AtomicU64>) -> io::Result<()> {
    to.set_nodelay(true)?;
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    let (stamped, on_its_way) = mpsc::channel();
    let delay = Arc::clone(delay);
    thread::spawn(move || read(&mut from, &stamped, &delay));
    thread::spawn(move || {
        write(&on_its_way, &mut to);
        // Either the sender has closed its side, or the receiver is gone.
        _ = to.shutdown(Shutdown::Write);
    });
    Ok(())
}

/// Stamps what comes with the time at which it arrives at the other end.
fn read(from: &mut TcpStream, stamped: &Sender<(Instant, Vec<u8>)>, delay: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let arrival = Instant::now() + Duration::from_nanos(delay.load(Ordering::Relaxed));
        if stamped.send((arrival, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn write(on_its_way: &Receiver<(Instant, Vec<u8>)>, to: &mut TcpStream) {
    for (arrival, bytes) in on_its_way {
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}
