//! The call: a mail by SMTP.

use std::time::Duration;

use idem_core::StepKey;
use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde::{Deserialize, Serialize};

/// Sends mails to one server.
#[derive(Debug, Clone)]
pub struct Mailer {
    server: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// What the mail server has decided. It is recorded as the result of the step.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sent {
    /// It has taken the mail.
    Taken {
        /// The mail's name, which is in its `Message-ID`.
        id: String,
    },
    /// It does not take such a mail, and would not take it later.
    Refused,
}

/// The server has decided nothing: the mail may be sent or not.
#[derive(Debug)]
pub(crate) struct NoDecision;

impl Mailer {
    /// Sends to this server, without TLS, from this address.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(host: &str, port: u16, from: &str) -> Result<Self, AddressError> {
        let server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port);
        // Shorter than the handler's deadline.
        let server = server.timeout(Some(Duration::from_secs(10))).build();
        Ok(Self { server, from: from.parse()? })
    }

    /// Sends a mail. Its `Message-ID` is made of the key, which is the same on every attempt: a mailbox that has the mail
    /// recognises a second one.
    pub(crate) async fn send(&self, key: &StepKey, to: Mailbox, subject: &str, text: &str) -> Result<Sent, NoDecision> {
        let id = key.as_str().to_owned();
        let mail = Message::builder()
            .message_id(Some(format!("<{id}@notify.example.com>")))
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            .body(text.to_owned());
        // A text that is no mail is none on a retry either.
        let Ok(mail) = mail else { return Ok(Sent::Refused) };
        match self.server.send(mail).await {
            Ok(_) => Ok(Sent::Taken { id }),
            Err(error) if is_final(&error) => Ok(Sent::Refused),
            Err(_) => Err(NoDecision),
        }
    }
}

/// Codes from 500 on are final, by RFC 5321.
fn is_final(error: &Error) -> bool {
    error.is_permanent()
}
