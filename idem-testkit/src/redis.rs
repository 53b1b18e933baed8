//! Redis servers that tests start, kill and start again. They end with the process that started them.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Names the program of the server: Redis or Valkey. `cargo xtask test` sets it.
pub const VARIABLE: &str = "IDEM_TEST_REDIS";

/// How long a server, a cluster or a failover may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The shell ends the server when its own standard input is closed: the kernel does that, however the test ends. It waits
/// for the end, so that the port is free for the next server.
const KEEPER: &str = r#""$@" </dev/null >>log 2>&1 & echo $!; read -r end_of_pipe; kill -KILL $! 2>/dev/null; wait $!"#;

/// A server on loopback, with a folder of its own.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    /// Its port.
    pub port: u16,
    settings: Vec<String>,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    shell: Child,
    server: u32,
}

impl Redis {
    /// Starts a server with these settings, as on its command line, and returns when it answers.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start(settings: &[&str]) -> Self {
        let mut server = Self::prepare(free_port(), settings);
        server.start_again().await;
        server
    }

    fn prepare(port: u16, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, port, settings: settings.iter().map(|&setting| setting.to_owned()).collect(), process: None }
    }

    /// Starts it again, on the same port and with the files that it has left, and returns when it answers.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.eventually("PING", "+PONG").await;
    }

    fn spawn(&mut self) {
        let program = std::env::var_os(VARIABLE).map(PathBuf::from);
        let program = program.unwrap_or_else(|| panic!("no {VARIABLE}: run `cargo xtask test`"));
        let port = self.port.to_string();
        let own = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"];
        let mut shell = Command::new("sh");
        shell.args(["-c", KEEPER, "sh"]).arg(program).args(own).args(&self.settings).current_dir(self.folder.path());
        let mut shell =
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("a pipe")).read_line(&mut line).expect("its number");
        self.process = Some(Process { shell, server: line.trim().parse().expect("the number of a process") });
    }

    /// Kills it by SIGKILL, and returns when it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal by name, such as `STOP`.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("it runs");
        let sent = Command::new("kill").args([&format!("-{name}"), &process.server.to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// The URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// What it answers to a command without blanks in its words: the first 64 KiB that come together.
    pub async fn ask(&self, command: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = vec![0; 64 * 1024];
            let length = stream.read(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        let answered = tokio::time::timeout(Duration::from_secs(2), asked).await;
        answered.map_or_else(|_| String::new(), |answered| answered.unwrap_or_default())
    }

    /// Asks until the answer has this in it.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn eventually(&self, command: &str, wanted: &str) {
        let began = Instant::now();
        let mut answer = String::new();
        while began.elapsed() < PATIENCE {
            answer = self.ask(command).await;
            if answer.contains(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        panic!("{command}: no {wanted} in {answer:?}; the log is\n{log}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            _ = pipe.write_all(b"\n");
        }
        _ = self.shell.wait();
    }
}

/// A cluster of three masters, and of a replica for each of them.
#[derive(Debug)]
pub struct Cluster {
    /// The masters at the beginning, and then their replicas in the same order.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts a cluster, and returns when all of its slots are served and its replicas follow.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn start(settings: &[&str]) -> Self {
        // A member is known by forty digits. With their files written before, the nodes need not be introduced.
        let ports: Vec<(u16, u16)> = (0..6).map(|_| (free_port(), free_port())).collect();
        let id = |node: usize| format!("{:040x}", node + 1);
        let slots = ["0-5460", "5461-10922", "10923-16383"];
        let line = |node: usize, of: usize| {
            let (port, bus) = ports[node];
            let myself = if node == of { "myself," } else { "" };
            let role = if node < 3 { "master - 0 0".to_owned() } else { format!("slave {} 0 0", id(node - 3)) };
            let slots = slots.get(node).map(|slots| format!(" {slots}")).unwrap_or_default();
            format!("{} 127.0.0.1:{port}@{bus} {myself}{role} {} connected{slots}\n", id(node), node % 3 + 1)
        };
        let mut nodes = Vec::new();
        for (of, (port, bus)) in ports.iter().enumerate() {
            let bus = bus.to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
            let more = ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"];
            let all: Vec<&str> = own.iter().chain(&more).chain(settings).copied().collect();
            let mut node = Redis::prepare(*port, &all);
            let members: String = (0..6).map(|node| line(node, of)).collect();
            let text = format!("{members}vars currentEpoch 3 lastVoteEpoch 0\n");
            std::fs::write(node.folder.path().join("nodes.conf"), text).expect("a file");
            node.spawn();
            nodes.push(node);
        }
        for node in &nodes {
            node.eventually("CLUSTER INFO", "cluster_state:ok").await;
        }
        for replica in &nodes[3..] {
            replica.eventually("INFO replication", "master_link_status:up").await;
        }
        Self { nodes }
    }

    /// The URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }
}

/// A port that nobody listens on, below those that the system gives to clients.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 20_000) as u16;
    loop {
        let port = 12_000 + (first.wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
