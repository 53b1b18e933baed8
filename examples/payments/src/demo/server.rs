//! The program in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hyper::Request;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::Failure;
use crate::demo::client::{self, Answer};

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) process: Child,
    lines: UnboundedReceiver<String>,
}

impl Server {
    /// Starts the program on a free port, and waits until it listens.
    pub(crate) async fn start(
        program: &Path,
        arguments: &[&str],
        database_url: &str,
        charge_time: Duration,
    ) -> Result<Self, Failure> {
        let mut process = Command::new(program)
            .args(arguments)
            .env("DATABASE_URL", database_url)
            .env("PORT", "0")
            .env("CHARGE_MS", charge_time.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;

        // Read all the time: a server whose pipe is full stands still.
        let output = process.stdout.take().ok_or("the server has no output")?;
        let (sender, lines) = unbounded_channel();
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                // Lines that nobody waits for are read all the same.
                let _unheard = sender.send(line);
            }
        });

        let mut server = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), process, lines };
        let line = server.wait_for("listening on http://").await?;
        let (_, address) = line.rsplit_once('/').ok_or("the server named no address")?;
        server.address = address.parse()?;
        Ok(server)
    }

    /// Waits until the server has said this, and gives the line.
    pub(crate) async fn wait_for(&mut self, words: &str) -> Result<String, Failure> {
        let line = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(words) {
                    return Ok(line);
                }
            }
            Err(format!("the server ended before it said {words:?}"))
        };
        let line = timeout(Duration::from_secs(60), line).await;
        Ok(line.map_err(|_| format!("the server did not say {words:?} in a minute"))??)
    }

    pub(crate) async fn send(&self, request: Request<String>) -> Result<Answer, Failure> {
        client::send(self.address, request).await
    }

    /// SIGKILL, and no process any more.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.process.kill().await?)
    }
}
