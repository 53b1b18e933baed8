//! The programs in processes of their own.

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
use crate::demo::halt;
use crate::standin::{Ledger, Mood};

/// A running program that listens. Dropped, it is killed; and it ends when we end, however that is.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    pub(crate) process: Child,
    lines: UnboundedReceiver<String>,
}

impl Program {
    /// Starts it on a free port, and waits until it listens.
    pub(crate) async fn start(mut command: Command) -> Result<Self, Failure> {
        let mut process =
            command.env("PORT", "0").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;

        // Read all the time: a program whose pipe is full stands still.
        let output = process.stdout.take().ok_or("the program has no output")?;
        let (sender, lines) = unbounded_channel();
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                // Lines that nobody waits for are read all the same.
                let _unheard = sender.send(line);
            }
        });

        let mut program = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), process, lines };
        let line = program.wait_for("listening on http://").await?;
        let (_, address) = line.rsplit_once('/').ok_or("the program named no address")?;
        program.address = address.parse()?;
        Ok(program)
    }

    /// Waits until the program has said this, and gives the line.
    pub(crate) async fn wait_for(&mut self, words: &str) -> Result<String, Failure> {
        let line = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(words) {
                    return Ok(line);
                }
            }
            Err(format!("the program ended before it said {words:?}"))
        };
        let line = timeout(Duration::from_secs(60), line).await;
        Ok(line.map_err(|_| format!("the program did not say {words:?} in a minute"))??)
    }

    pub(crate) async fn send(&self, request: Request<String>) -> Result<Answer, Failure> {
        client::send(self.address, request).await
    }

    /// SIGKILL, and no process any more.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.process.kill().await?)
    }
}

/// What a shop is made of: its program, its database, its provider.
#[derive(Clone, Copy)]
pub(crate) struct Shop<'a> {
    pub(crate) program: &'a Path,
    pub(crate) database_url: &'a str,
    pub(crate) provider: SocketAddr,
}

impl Shop<'_> {
    pub(crate) fn command(self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(["demo", "server"])
            .env("DATABASE_URL", self.database_url)
            .env("PROVIDER_URL", format!("http://{}", self.provider))
            .env_remove("PROVIDER_TIMEOUT_MS")
            .env_remove(halt::VARIABLE);
        command
    }

    pub(crate) async fn open(self) -> Result<Program, Failure> {
        Program::start(self.command()).await
    }

    /// It will stop where its log has these words.
    pub(crate) async fn open_until(self, words: &str) -> Result<Program, Failure> {
        let mut command = self.command();
        command.env(halt::VARIABLE, words);
        Program::start(command).await
    }
}

/// The provider, as one that can look into its books.
pub(crate) struct Provider(pub(crate) Program);

impl Provider {
    pub(crate) async fn start(program: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(["demo", "provider"]);
        Ok(Self(Program::start(command).await?))
    }

    pub(crate) async fn is(&self, mood: Mood) -> Result<(), Failure> {
        let request = Request::put("/mood").header("content-type", "application/json");
        let answer = self.0.send(request.body(serde_json::to_string(&mood)?)?).await?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("the provider's mood: {answer}").into()) }
    }

    pub(crate) async fn ledger(&self) -> Result<Ledger, Failure> {
        let answer = self.0.send(Request::get("/ledger").body(String::new())?).await?;
        Ok(serde_json::from_str(&answer.body)?)
    }
}
