//! A mail server on loopback that speaks as much SMTP as a client needs, and does as it is told.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone)]
pub(crate) struct MailServer {
    pub(crate) port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How often each mail came, by its `Message-ID`.
    mails: HashMap<String, u32>,
    behaviour: Behaviour,
}

/// What it does with a mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Behaviour {
    #[default]
    Takes,
    /// It takes the mail, and the connection is lost before its answer.
    TakesWithoutAWord,
    /// It takes the mail after a while.
    TakesSlowly,
    /// It has no space now.
    Busy,
    /// It does not know the address.
    Refuses,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Self { port, shared: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                // A client that goes away in the middle has sent nothing.
                tokio::spawn(async move { _ = server.serve(stream).await });
            }
        });
        server
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        self.shared.lock().expect("no poison").behaviour = behaviour;
    }

    /// How often each mail came.
    pub(crate) fn mails(&self) -> Vec<u32> {
        self.shared.lock().expect("no poison").mails.values().copied().collect()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        writer.write_all(b"220 mail.test ready\r\n").await?;
        while let Some(line) = lines.next_line().await? {
            let behaviour = self.shared.lock().expect("no poison").behaviour;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let answer = match (verb.as_str(), behaviour) {
                ("EHLO", _) => "250-mail.test\r\n250 8BITMIME\r\n",
                ("RCPT", Behaviour::Refuses) => "550 no such mailbox\r\n",
                ("RCPT", Behaviour::Busy) => "452 no space now\r\n",
                ("MAIL" | "RCPT" | "RSET" | "NOOP", _) => "250 ok\r\n",
                ("DATA", _) => {
                    writer.write_all(b"354 go on\r\n").await?;
                    let mut id = String::new();
                    while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                        if let Some(found) = line.strip_prefix("Message-ID: ") {
                            id = found.to_owned();
                        }
                    }
                    if behaviour == Behaviour::TakesSlowly {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    *self.shared.lock().expect("no poison").mails.entry(id).or_default() += 1;
                    if behaviour == Behaviour::TakesWithoutAWord {
                        return Ok(());
                    }
                    "250 taken\r\n"
                }
                ("QUIT", _) => {
                    writer.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => "502 what\r\n",
            };
            writer.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }
}
