//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use postern_cloud::{Smtp, SmtpTls};
use std::{net::SocketAddr, path::PathBuf};

/// Postern's cloud service: takes confidential mail from appliances and lets its recipients read it.
#[derive(Parser)]
#[command(name = "postern-cloud", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the service in the foreground.
    Serve(Serve),
    /// The organisations that send.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Enrolment codes.
    #[command(subcommand)]
    Code(Codes),
    /// Enrolled appliances.
    #[command(subcommand)]
    Appliance(Appliances),
}

/// Where everything is kept.
#[derive(Args)]
pub struct Store {
    /// Data folder; made at first use.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Master key, outside the data folder; made at first use. Default: beside the data folder, DIR.master-key.
    #[arg(long, value_name = "FILE")]
    master_key: Option<PathBuf>,
}

impl Store {
    pub fn master_key(&self) -> PathBuf {
        self.master_key.clone().unwrap_or_else(|| {
            let mut beside = self.data.components().as_path().as_os_str().to_owned();
            beside.push(".master-key");
            beside.into()
        })
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Tls {
    /// Never.
    None,
    /// STARTTLS where offered.
    Opportunistic,
    /// STARTTLS with a valid certificate, or the notice waits.
    Required,
}

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    pub store: Store,
    /// Address of the API for appliances.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:42504")]
    pub api: SocketAddr,
    /// Address of the portal for recipients.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:42503")]
    pub portal: SocketAddr,
    /// The portal as recipients reach it, https://host[:port]. Default: the address it listens on.
    #[arg(long, value_name = "URL")]
    pub portal_url: Option<String>,
    /// Mail server that notices go through.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:25", value_parser = host_port)]
    smtp: (String, u16),
    /// TLS towards that mail server.
    #[arg(long, value_enum, default_value = "opportunistic")]
    smtp_tls: Tls,
    /// Sender of the notices.
    #[arg(long, value_name = "ADDRESS", default_value = "secure-mail@localhost")]
    notice_from: String,
    /// Certificate chain of both listeners, PEM. Default: issued by the service's own CA, DIR/ca.pem.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Further host names and addresses for a certificate of the own CA.
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
}

impl Serve {
    pub fn smtp(&self) -> Smtp {
        let tls = match self.smtp_tls {
            Tls::None => SmtpTls::None,
            Tls::Opportunistic => SmtpTls::Opportunistic,
            Tls::Required => SmtpTls::Required,
        };
        Smtp { host: self.smtp.0.clone(), port: self.smtp.1, tls, sender: self.notice_from.clone() }
    }

    pub fn tls(&self) -> Option<(PathBuf, PathBuf)> {
        self.tls_certificate.clone().zip(self.tls_key.clone())
    }
}

#[derive(Subcommand)]
pub enum TenantCommand {
    /// Add an organisation.
    Add {
        #[command(flatten)]
        store: Store,
        /// Short name: letters, digits, hyphens.
        #[arg(long)]
        id: String,
        /// Name that recipients see.
        #[arg(long)]
        name: String,
    },
    /// List organisations.
    List {
        #[command(flatten)]
        store: Store,
    },
}

#[derive(Subcommand)]
pub enum Codes {
    /// Issue a one-time code for enrolling one appliance; it is shown this once.
    Issue {
        #[command(flatten)]
        store: Store,
        /// The organisation's id.
        #[arg(long)]
        tenant: String,
        /// How long it can be used.
        #[arg(long, default_value_t = 60)]
        valid_minutes: u64,
    },
}

#[derive(Subcommand)]
pub enum Appliances {
    /// List appliances.
    List {
        #[command(flatten)]
        store: Store,
    },
    /// End an appliance's access.
    Revoke {
        #[command(flatten)]
        store: Store,
        /// The appliance, as `list` shows it.
        id: String,
    },
}

fn host_port(text: &str) -> Result<(String, u16), String> {
    text.rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| format!("{text:?} is no host and port; write it as host:port"))
}
