//! Enrolment and who is let in.

use crate::harness::*;
use hyper::{Method, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::time::Duration;
use wire::EnrolResponse;

#[tokio::test]
async fn a_code_lets_one_appliance_in_and_no_second_one() {
    let lab = Lab::start().await;
    let code = lab.code().await;
    let key = p256();
    let first: EnrolResponse = lab.stranger().enrol(&code, &csr(&key)).await.json();
    assert_eq!(first.tenant, "clinic");

    let other = lab.stranger().enrol(&code, &csr(&p256())).await;
    assert_eq!(other.status, StatusCode::FORBIDDEN, "{}", other.text());

    // A lost reply: the same key is answered again, also when the code is typed in another way.
    let sloppy = code.to_lowercase().replace('-', " ");
    let again: EnrolResponse = lab.stranger().enrol(&sloppy, &csr(&key)).await.json();
    assert_eq!(first, again);
    lab.with_certificate(&first.certificate, &key).state(0).await;
}

#[tokio::test]
async fn an_expired_or_made_up_code_is_refused() {
    let lab = Lab::start().await;
    let expired = lab.admin().await.tenants.issue_code("clinic", Duration::ZERO).await.unwrap();
    for code in [expired.as_str(), "0000-0000-0000-0000-0000", ""] {
        let reply = lab.stranger().enrol(code, &csr(&p256())).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{code}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_bad_request_does_not_burn_the_code() {
    let lab = Lab::start().await;
    let code = lab.code().await;
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for request in ["", "hello", &csr(&p384)] {
        let reply = lab.stranger().enrol(&code, request).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
    }
    let reply = lab.stranger().request(Method::POST, wire::path::ENROL, &[], b"{".to_vec()).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply = lab.stranger().request(Method::POST, wire::path::ENROL, &[], vec![b' '; 100_000]).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(lab.stranger().enrol(&code, &csr(&p256())).await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_a_certificate_every_path_is_closed() {
    let lab = Lab::start().await;
    let stranger = lab.stranger();
    for path in ["/v1/messages/01JD3Q5Y7ZKX9V2W4T6R8P0M1N/0", "/", "/v1/enrol/x", "/v1/anything", "/healthz", "/m/x"] {
        for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD, Method::OPTIONS] {
            let reply = stranger.request(method.clone(), path, &[], Vec::new()).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_a_foreign_ca_does_not_connect() {
    let lab = Lab::start().await;
    let genuine = lab.enrolled().await;
    assert_eq!(genuine.state(0).await, wire::UploadState::Absent);

    // As good a copy of the device CA as somebody without its key can make.
    let ca_key = p256();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Postern device CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = Issuer::new(ca, &ca_key);
    let key = p256();
    let mut leaf = CertificateParams::default();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let pem = leaf.signed_by(&key, &issuer).unwrap().pem();
    let forged = lab.with_certificate(&pem, &key);
    let path = wire::path::message(ID, 0);
    assert!(forged.try_request(Method::GET, &path, &[], Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_revoked_appliance_is_out_at_its_next_request_also_on_a_resumed_session() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    assert_eq!(appliance.put(0, &frame(b"Subject: x\r\n\r\nx")).await.status, StatusCode::CREATED);
    let admin = lab.admin().await;
    let rows = admin.tenants.appliances().await.unwrap();
    assert_eq!(rows.len(), 1);
    admin.tenants.revoke(&rows[0].id).await.unwrap();
    let reply = appliance.request(Method::GET, &wire::path::message(ID, 0), &[], Vec::new()).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
}

#[tokio::test]
async fn sessions_resume_and_still_name_the_appliance() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    appliance.state(0).await;
    // The ticket arrives with the first reply.
    let stream = appliance.open().await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    drop(stream);
    assert_eq!(appliance.state(0).await, wire::UploadState::Absent);
}

#[tokio::test]
async fn the_api_speaks_tls_1_3_only() {
    let lab = Lab::start().await;
    let mut appliance = lab.enrolled().await;
    let stream = appliance.open().await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(lab.ca()).unwrap();
    appliance.tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert!(appliance.open().await.is_err());
}

#[tokio::test]
async fn an_appliance_sees_nothing_of_another_tenant() {
    let lab = Lab::start().await;
    let first = lab.enrolled().await;
    first.put(0, &frame(b"Subject: x\r\n\r\nx")).await;
    let admin = lab.admin().await;
    admin.tenants.add("other", "Other Practice").await.unwrap();
    let code = admin.tenants.issue_code("other", Duration::from_secs(60)).await.unwrap();
    let key = p256();
    let enrolled: EnrolResponse = lab.stranger().enrol(&code, &csr(&key)).await.json();
    let second = lab.with_certificate(&enrolled.certificate, &key);
    assert_eq!(second.state(0).await, wire::UploadState::Absent);
    assert_eq!(second.put(0, &frame(b"Subject: y\r\n\r\ny")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn strangers_who_send_half_an_enrolment_keep_nobody_out() {
    let lab = Lab::start().await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = lab.stranger().open().await.unwrap();
        let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{", wire::path::ENROL);
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut stream).await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let reply = lab.stranger().enrol(&lab.code().await, &csr(&p256())).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
}

#[tokio::test]
async fn connections_of_enrolled_appliances_shut_no_neighbour_out() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    let mut held = Vec::new();
    for _ in 0..80 {
        held.push(appliance.open().await.unwrap());
    }
    let reply = lab.stranger().enrol(&lab.code().await, &csr(&p256())).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
}
