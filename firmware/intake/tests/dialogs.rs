//! Plays the dialogs of `tests/dialogs/server` over real sockets, whole and octet by octet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a broken dialog ends the test"
)]

#[path = "../../../tests/dialogs/dialog.rs"]
mod dialog;
mod rig;

use dialog::{Accepted, Cut, Dialog, Player, all, play};
use rig::{Options, Rig, Stages};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

/// RFC 7435: encryption without knowing whom with. The certificate is made anew for each test.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client_tls() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    Arc::new(config)
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

struct Socket {
    stream: Option<Stream>,
    said: Vec<u8>,
    stages: Arc<Stages>,
    asked: usize,
}

impl Socket {
    fn connect(rig: &Rig) -> Self {
        let stream = TcpStream::connect(rig.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let stages = Arc::clone(&rig.stages);
        let asked = rig.count();
        Self { stream: Some(Stream::Plain(stream)), said: Vec::new(), stages, asked }
    }
}

impl Player for Socket {
    fn send(&mut self, octets: &[u8]) {
        // A server that has closed shows by its missing reply.
        let _closed = match self.stream.as_mut().unwrap() {
            Stream::Plain(stream) => stream.write_all(octets),
            Stream::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
        };
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.said.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.said.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            let mut piece = [0; 4096];
            let read = match self.stream.as_mut().unwrap() {
                Stream::Plain(stream) => stream.read(&mut piece),
                Stream::Tls(stream) => stream.read(&mut piece),
            };
            match read {
                Ok(0) => return None,
                Ok(length) => self.said.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    fn handshake(&mut self) {
        let Some(Stream::Plain(stream)) = self.stream.take() else { panic!("TLS is active already") };
        let name = ServerName::try_from("mx.example").unwrap();
        let connection = ClientConnection::new(client_tls(), name).unwrap();
        self.stream = Some(Stream::Tls(Box::new(StreamOwned::new(connection, stream))));
    }

    fn accepted(&mut self) -> Option<Accepted> {
        let messages = self.stages.messages.lock().unwrap();
        let (envelope, content) = messages.get(self.asked)?;
        self.asked += 1;
        let to: Vec<String> = envelope.recipients.iter().map(|to| format!("<{to}>")).collect();
        Some(Accepted { paths: format!("<{}> {}", envelope.sender, to.join(" ")), content: content.clone() })
    }
}

fn rig_for(dialog: &Dialog) -> Rig {
    Rig::start(Options { listed: !dialog.stranger, tls: dialog.tls, size: dialog.size, ..Options::default() })
}

#[test]
fn every_dialog_goes_over_sockets_as_written() {
    let mut failures = Vec::new();
    for dialog in all() {
        let rig = rig_for(&dialog);
        let cuts = if dialog.whole { &[Cut::Whole][..] } else { &[Cut::Whole, Cut::Octets, Cut::At(1)] };
        for cut in cuts {
            // A megabyte octet by octet is a million packets.
            if matches!(cut, Cut::Octets) && dialog::longest_run(&dialog) > 20_000 {
                continue;
            }
            if let Err(failure) = play(&dialog, *cut, &mut Socket::connect(&rig)) {
                failures.push(failure);
            }
        }
        assert_eq!(*rig.stages.staged.lock().unwrap(), 0, "{}: staging is left behind", dialog.name);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
