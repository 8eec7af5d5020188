//! What can go wrong on the way to the cloud service, and what it means for the message.

use mail::{EnhancedCode, Outcome, Reply};
use rustls::{AlertDescription, CertificateError};
use std::{error::Error, io, time::Duration};

/// Everything but the durable acknowledgement. Who is at fault is in the variant; [`Fault::outcome`] maps all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the cloud service's name cannot be resolved: {0}; check cloud.url and the DNS servers")]
    Name(String),
    #[error("the cloud service cannot be reached: {0}; check the network, or wait until it is back")]
    Unreachable(String),
    #[error("the connection to the cloud service broke: {0}; it is tried again")]
    Lost(String),
    #[error("the cloud service gave no answer within {0} seconds; it is asked again")]
    Silent(u64),
    #[error("the cloud service's certificate is not accepted: {0}; check cloud.ca, the clock, and who answers there")]
    Foreign(String),
    #[error("the cloud service does not accept this appliance's certificate: {0}; enrol again with `postern enrol`")]
    Certificate(String),
    #[error("this appliance is not enrolled: {0}; enrol it with `postern enrol`")]
    NotEnrolled(String),
    #[error("the device key could not sign: {0}; look at `postern keys status`")]
    Key(String),
    #[error("the cloud service does not speak as it should: {0}; check cloud.url")]
    Nonsense(String),
    #[error("the cloud service cannot take mail now ({status}): {text}; it is tried again")]
    Later { status: u16, text: String, wait: Option<Duration> },
    #[error(
        "the cloud service refuses the message for good ({status}): {text}; look at it with `postern message show`"
    )]
    Refused { status: u16, text: String },
    #[error("the message is longer than the {max} octets that the cloud service takes; send less", max = wire::limit::FRAME)]
    TooLong,
    #[error("the stored message cannot be read: {0}; look at the disk's health")]
    Unreadable(String),
    #[error("the stored message is damaged: {0}; look at it with `postern message show`")]
    Damaged(String),
}

impl Fault {
    /// From hyper, whose errors wrap TLS's: after a TLS 1.3 handshake the service's view of our certificate arrives as
    /// the first thing that is read.
    pub(super) fn lost(error: &(dyn Error + 'static)) -> Self {
        match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
                Self::Certificate(format!("{alert:?}"))
            }
            _ => Self::Lost(chain(error)),
        }
    }

    /// From a TLS handshake.
    pub(super) fn tls(error: &io::Error) -> Self {
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Foreign(in_words(why)),
            Some(rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
                Self::Certificate(format!("{alert:?}"))
            }
            // What a signer reports; nothing else in a handshake gives these two.
            Some(rustls::Error::Other(rustls::OtherError(why))) => Self::Key(why.to_string()),
            Some(rustls::Error::General(why)) => Self::Key(why.clone()),
            Some(other) => Self::Nonsense(other.to_string()),
            None => Self::Lost(chain(error)),
        }
    }

    pub(super) fn stored(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData {
            Self::Damaged(error.to_string())
        } else {
            Self::Unreadable(error.to_string())
        }
    }

    /// Whether the service, rather than the message, is in trouble: the destination may be suspended for it.
    pub(super) fn is_about_the_service(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::TooLong | Self::Unreadable(_) | Self::Damaged(_))
    }

    /// What it means for the recipients. Only what concerns the message itself is permanent.
    pub(super) fn outcome(&self) -> Outcome {
        let deferred =
            |subject, detail| Outcome::Deferred(Reply::new(451, EnhancedCode(4, subject, detail), self.to_string()));
        match self {
            Self::Name(_) => deferred(4, 3),
            Self::Unreachable(_) => deferred(4, 1),
            Self::Lost(_) | Self::Silent(_) => deferred(4, 2),
            Self::Foreign(_) | Self::Key(_) => deferred(7, 5),
            Self::Certificate(_) | Self::NotEnrolled(_) => deferred(7, 0),
            Self::Nonsense(_) => deferred(5, 0),
            Self::Later { .. } => deferred(3, 2),
            Self::Unreadable(_) => deferred(3, 0),
            Self::TooLong => Outcome::Failed(Reply::new(552, EnhancedCode(5, 3, 4), self.to_string())),
            Self::Refused { .. } | Self::Damaged(_) => {
                Outcome::Failed(Reply::new(554, EnhancedCode(5, 6, 0), self.to_string()))
            }
        }
    }
}

/// What an operator can act on; the rest as TLS names it.
fn in_words(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!("it has expired ({why})"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("it is not valid yet ({why})")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("it was not issued by a CA that is trusted here ({why})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is for another name ({why})")
        }
        other => other.to_string(),
    }
}

/// RFC 8446 §6.2.
fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // io::Error's source skips the error that it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// An error with its causes, for an operator.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}
