//! The device identity against a real TPM and a real TLS server.

use crate::appliance::Appliance;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use std::{fs, sync::Arc};
use vault::{EnrolError, Enrolment, Identity, IdentityState, Keys, Opened, Vault};

/// The cloud's CA, for servers and appliances alike.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn enrol(&self, request: &str) -> Enrolment {
        let request = CertificateSigningRequestParams::from_pem(request).unwrap();
        Enrolment {
            appliance: "box-1".to_owned(),
            tenant: "example".to_owned(),
            certificate: request.signed_by(&self.0).unwrap().pem(),
            ca: self.0.pem(),
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// Runs a whole TLS 1.3 handshake in memory; the client certificate that the server has verified.
    fn handshake(&self, identity: &Arc<Identity>) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["cloud.test".to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider)).build().unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots())
            .with_client_cert_resolver(identity.resolver());
        let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("cloud.test").unwrap())?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(server.peer_certificates().unwrap().iter().map(|c| c.clone().into_owned()).collect())
    }
}

fn enrolled(appliance: &Appliance, cloud: &Authority) -> String {
    let (vault, opened) = appliance.open();
    let Opened::Fresh(Keys { identity, .. }) = opened else { panic!("{opened:?}") };
    assert_eq!(identity.state(), IdentityState::NeedsEnrolment);
    assert!(identity.certified_key().is_none() && !identity.resolver().has_certs());
    let request = identity.certificate_request("postern").unwrap();
    identity.enrol(cloud.enrol(&request)).unwrap();
    assert_eq!(identity.state(), IdentityState::Enrolled);
    vault.show_recovery_key().unwrap().unwrap().phrase().to_string()
}

fn public_key(request: &str) -> Vec<u8> {
    use x509_parser::prelude::FromDer;
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
    let info = request.certification_request_info;
    let point = info.subject_pki.subject_public_key.data.to_vec();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point);
    key.verify(info.raw, &request.signature_value.data).unwrap();
    point
}

#[test]
fn the_tpm_signs_requests_and_handshakes_and_the_enrolment_survives_a_restart() {
    let mut appliance = Appliance::new();
    let cloud = Authority::new();
    enrolled(&appliance, &cloud);
    appliance.tpm.restart().unwrap();
    let (vault, Keys { identity, .. }) = appliance.unlocked();
    assert_eq!(identity.state(), IdentityState::Enrolled);
    assert_eq!(identity.enrolment().unwrap().appliance, "box-1");
    assert_eq!(vault.status().identity.unwrap().state, "enrolled");

    let shown = cloud.handshake(&identity).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&shown[0]).unwrap();
    let request = identity.certificate_request("postern").unwrap();
    assert_eq!(*certificate.public_key().subject_public_key.data, public_key(&request));
}

#[test]
fn a_boot_that_is_altered_while_running_ends_the_signing() {
    let appliance = Appliance::new();
    let cloud = Authority::new();
    enrolled(&appliance, &cloud);
    let (_vault, Keys { identity, .. }) = appliance.unlocked();
    cloud.handshake(&identity).unwrap();
    appliance.tpm.extend(12, b"an add-on").unwrap();
    assert!(matches!(cloud.handshake(&identity), Err(rustls::Error::Other(_))));
    assert!(matches!(identity.check(), IdentityState::Unavailable(vault::Fault::BootAltered)));
}

#[test]
fn a_secure_boot_change_that_was_unlocked_keeps_the_enrolment() {
    let mut appliance = Appliance::new();
    let cloud = Authority::new();
    let words = enrolled(&appliance, &cloud);
    appliance.tpm.boot.secure_boot.push("dbx=new".to_owned());
    appliance.tpm.restart().unwrap();
    let (vault, _) = appliance.locked();
    let keys = vault.unlock(&words).unwrap();
    assert_eq!(keys.identity.state(), IdentityState::Enrolled);
    cloud.handshake(&keys.identity).unwrap();
}

#[test]
fn everything_copied_to_another_tpm_even_with_the_recovery_key_is_another_identity() {
    let (appliance, thief) = (Appliance::new(), Appliance::new());
    let cloud = Authority::new();
    let words = enrolled(&appliance, &cloud);
    let before = public_key(&appliance.unlocked().1.identity.certificate_request("postern").unwrap());

    let mut config = appliance.config(); // the same disk and image …
    config.tcti = thief.tpm.tcti(); // … and firmware, with another TPM
    let (vault, opened) = Vault::open(config).unwrap();
    assert!(matches!(opened, Opened::Locked(vault::Fault::Replaced)));
    let keys = vault.unlock(&words).unwrap();
    assert_eq!(keys.identity.state(), IdentityState::NeedsEnrolment);
    assert!(keys.identity.certified_key().is_none());
    assert!(cloud.handshake(&keys.identity).is_err());
    let after = public_key(&keys.identity.certificate_request("postern").unwrap());
    assert_ne!(before, after);
}

#[test]
fn a_certificate_for_another_key_and_no_certificate_are_refused() {
    let appliance = Appliance::new();
    let cloud = Authority::new();
    let (_vault, opened) = appliance.open();
    let Opened::Fresh(Keys { identity, .. }) = opened else { panic!("{opened:?}") };
    let other = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    let foreign = cloud.enrol(&request);
    assert_eq!(identity.enrol(foreign.clone()), Err(EnrolError::OtherKey));
    assert_eq!(identity.enrol(Enrolment { certificate: String::new(), ..foreign }), Err(EnrolError::NoCertificate));
    assert_eq!((identity.state(), identity.enrolment()), (IdentityState::NeedsEnrolment, None));
}

#[test]
fn a_lost_identity_file_means_a_new_key_that_is_not_taken_for_the_old_one() {
    let appliance = Appliance::new();
    let cloud = Authority::new();
    enrolled(&appliance, &cloud);
    fs::remove_file(appliance.store("identity.json")).unwrap();
    let (_vault, keys) = appliance.unlocked();
    assert_eq!(keys.identity.state(), IdentityState::NeedsEnrolment);
    assert!(keys.identity.certified_key().is_none());
}
