//! Notices: the mails that tell recipients that a message waits.
//!
//! Job: send one stub per recipient, by SMTP, from a durable queue. Place: behind the commit of a message, towards the
//! mail server that the operator names. Invariants: a stub says who sent and where to read, and nothing else: no subject,
//! text, attachment name, and no address in the link; the link's token has 256 random bits, is stored as a keyed hash for
//! looking up and sealed for sending, and the sealed form goes once it is sent. A row waits for its own time only, so a
//! mail server that refuses one recipient holds up nobody else. A crash between the mail server's reply and our record of
//! it sends that stub twice, with the same link.

pub use crate::template::TemplateError;
use crate::{
    Error,
    database::now,
    event,
    keys::{ServiceKeys, hex},
    seal::random,
    template::{Format, Template, Values},
    tenants::Tenants,
};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{Header, HeaderName, HeaderValue},
    },
    transport::smtp::client::{Tls, TlsParameters},
};
use sqlx::SqlitePool;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long a link can be used to register or sign in, in seconds.
pub const LINK_LIFETIME: i64 = 90 * 24 * 3600;
/// First wait after a failure, doubled each time.
const FIRST_RETRY: i64 = 20;
/// Longest wait between tries.
const LONGEST_RETRY: i64 = 3600;
/// Age at which a notice is given up (RFC 5321 §4.5.4.1: four to five days).
const GIVE_UP: i64 = 5 * 24 * 3600;
/// Notices under way at once.
const AT_ONCE: usize = 4;
/// A mail server that does not answer is asked again later.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest sleep of the queue: notices of a changed clock are found at last.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// TLS towards the mail server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmtpTls {
    /// Never.
    None,
    /// STARTTLS where offered, certificate unchecked (RFC 7435).
    #[default]
    Opportunistic,
    /// STARTTLS with a certificate that the system's roots vouch for.
    Required,
}

/// Where notices go out.
#[derive(Clone, Debug)]
pub struct Smtp {
    /// Host name or address of the mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS.
    pub tls: SmtpTls,
    /// Sender of the notices, `name@domain`.
    pub sender: String,
}

/// The lookup value of a link.
pub fn link_hash(keys: &ServiceKeys, link: &str) -> Vec<u8> {
    keys.tokens.of(format!("link/{link}").as_bytes()).to_vec()
}

struct Templates {
    subject: Template,
    text: Template,
    html: Template,
}

/// The queue's worker.
pub struct Notifier {
    db: SqlitePool,
    tenants: Arc<Tenants>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    sender: Address,
    portal_url: String,
    templates: Templates,
}

/// A notice that is due.
#[derive(sqlx::FromRow)]
struct Due {
    recipient: i64,
    tenant: String,
    link_sealed: Vec<u8>,
    attempts: i64,
    created_at: i64,
    reference: String,
    address_sealed: Vec<u8>,
    link_expires_at: i64,
    message: String,
    delivery: u32,
}

enum Sent {
    Taken,
    Later(String),
    Never(String),
}

impl Notifier {
    /// A worker that sends through `smtp`.
    ///
    /// # Errors
    /// The sender is no mailbox, or TLS can't be set up.
    pub fn new(db: SqlitePool, tenants: Arc<Tenants>, smtp: &Smtp, portal_url: &str) -> Result<Self, Error> {
        let sender = smtp.sender.parse().map_err(|_| Error::NoticeSender(smtp.sender.clone()))?;
        let parameters = |checked: bool| {
            TlsParameters::builder(smtp.host.clone())
                .dangerous_accept_invalid_certs(!checked)
                .dangerous_accept_invalid_hostnames(!checked)
                .build()
                .map_err(|e| Error::Certificate(e.to_string()))
        };
        let tls = match smtp.tls {
            SmtpTls::None => Tls::None,
            SmtpTls::Opportunistic => Tls::Opportunistic(parameters(false)?),
            SmtpTls::Required => Tls::Required(parameters(true)?),
        };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
            .port(smtp.port)
            .tls(tls)
            .timeout(Some(PATIENCE))
            .build();
        let templates = Templates {
            subject: Template::compile("Secure message from {{organisation}}")?,
            text: Template::compile(include_str!("../templates/notice.txt"))?,
            html: Template::compile(include_str!("../templates/notice.html"))?,
        };
        Ok(Self { db, tenants, transport, sender, portal_url: portal_url.to_owned(), templates })
    }

    /// Sends until told to stop; a notice under way is finished first.
    pub async fn run(self: Arc<Self>, stored: Arc<tokio::sync::Notify>, stop: CancellationToken) {
        loop {
            let pause = match self.send_due().await {
                Ok(pause) => pause,
                Err(e) => {
                    log::error!("notices wait: {e}");
                    LONGEST_SLEEP
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = stored.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Sends what is due, oldest first, and says how long nothing will be.
    async fn send_due(self: &Arc<Self>) -> Result<Duration, Error> {
        loop {
            let due: Vec<Due> = sqlx::query_as(
                "SELECT n.recipient, n.tenant, n.link_sealed, n.attempts, n.created_at, r.reference, \
                 r.address_sealed, r.link_expires_at, m.message, m.delivery \
                 FROM notice n JOIN recipient r ON r.id = n.recipient JOIN message m ON m.reference = r.reference \
                 WHERE n.state = 0 AND n.due_at <= ? ORDER BY n.due_at LIMIT ?",
            )
            .bind(now())
            .bind(AT_ONCE as i64)
            .fetch_all(&self.db)
            .await?;
            if due.is_empty() {
                break;
            }
            let mut under_way = tokio::task::JoinSet::new();
            for notice in due {
                let notifier = self.clone();
                under_way.spawn(async move { notifier.settle(&notice).await });
            }
            while let Some(done) = under_way.join_next().await {
                match done {
                    Ok(settled) => settled?,
                    Err(e) => log::error!("a notice broke off: {}", crate::error::broke_off(&e)),
                }
            }
        }
        let next: (Option<i64>,) =
            sqlx::query_as("SELECT min(due_at) FROM notice WHERE state = 0").fetch_one(&self.db).await?;
        let seconds = next.0.map_or(LONGEST_SLEEP.as_secs(), |at| u64::try_from(at - now()).unwrap_or_default().max(1));
        Ok(Duration::from_secs(seconds).min(LONGEST_SLEEP))
    }

    async fn settle(&self, due: &Due) -> Result<(), Error> {
        // Written before the attempt: should this notice ever bring the service down, it is not the first again.
        let wait = (FIRST_RETRY << due.attempts.clamp(0, 8)).min(LONGEST_RETRY);
        sqlx::query("UPDATE notice SET attempts = attempts + 1, due_at = ? WHERE recipient = ?")
            .bind(now() + wait)
            .bind(due.recipient)
            .execute(&self.db)
            .await?;
        let sent = match self.send(due).await {
            Ok(sent) => sent,
            Err(e) => Sent::Later(e.to_string()),
        };
        let state = match sent {
            Sent::Taken => {
                event::notified(&due.message, due.delivery, &due.tenant);
                1
            }
            Sent::Later(reason) if now() - due.created_at < GIVE_UP => {
                log::warn!("notice for id={} group={} waits {wait} s: {reason}", due.message, due.delivery);
                return Ok(());
            }
            Sent::Later(status) | Sent::Never(status) => {
                event::notice_failed(&due.message, due.delivery, &due.tenant, &status);
                2
            }
        };
        sqlx::query("UPDATE notice SET state = ?, link_sealed = NULL WHERE recipient = ?")
            .bind(state)
            .bind(due.recipient)
            .execute(&self.db)
            .await?;
        Ok(())
    }

    async fn send(&self, due: &Due) -> Result<Sent, Error> {
        let keys = self.tenants.keys(&due.tenant).await?;
        let open = |kind: &str, sealed: &[u8]| -> Result<String, Error> {
            let plain = keys.records.open(&keys.context(kind, &due.reference), sealed)?;
            Ok(String::from_utf8_lossy(&plain).into_owned())
        };
        let address = open("recipient", &due.address_sealed)?;
        let link = format!("{}/m/{}", self.portal_url, open("link", &due.link_sealed)?);
        let organisation = self.tenants.name(&due.tenant).await?;
        let Ok(to) = address.parse::<Address>() else { return Ok(Sent::Never("unusable_address".into())) };
        let stub = match self.stub(to, &organisation, &link, due.link_expires_at)? {
            Ok(stub) => stub,
            Err(e) => return Ok(Sent::Never(format!("unusable_stub ({e})"))),
        };
        Ok(match self.transport.send(stub).await {
            Ok(_) => Sent::Taken,
            Err(e) => match (e.is_permanent(), e.status()) {
                // Only the code: a server's text likes to repeat the address.
                (true, Some(code)) => Sent::Never(code.to_string()),
                (_, Some(code)) => Sent::Later(format!("the mail server answered {code}")),
                (_, None) if e.is_timeout() => Sent::Later("the mail server did not answer in time".into()),
                (_, None) => Sent::Later("the mail server can't be reached or speaks nonsense".into()),
            },
        })
    }

    fn stub(
        &self,
        to: Address,
        organisation: &str,
        link: &str,
        expires: i64,
    ) -> Result<Result<Message, lettre::error::Error>, Error> {
        let expires = jiff::Timestamp::from_second(expires).unwrap_or_default().strftime("%-d %B %Y").to_string();
        let values = Values { organisation, link, expires: &expires };
        let id = format!("<{}@{}>", hex(&random::<16>()?), self.sender.domain());
        let body = MultiPart::alternative_plain_html(
            self.templates.text.render(Format::Text, &values),
            self.templates.html.render(Format::Html, &values),
        );
        Ok(Message::builder()
            .from(Mailbox::new(Some(organisation.to_owned()), self.sender.clone()))
            .to(Mailbox::new(None, to))
            .subject(self.templates.subject.render(Format::Text, &values))
            .message_id(Some(id))
            .header(AutoSubmitted)
            .multipart(body))
    }
}

/// RFC 3834 §5: keeps vacation replies away.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}
