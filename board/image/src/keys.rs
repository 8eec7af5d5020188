//! The folder of keys, and signing with one of them.
//!
//! Job: know which keys there are, whether they are for development, and have `openssl` sign. Place: used by `policy`,
//! `authenticode` and `bundle`. Invariants: a private key is a file `NAME.key` or a PKCS#11 URI in `NAME.uri`, and neither is read
//! here; every signature is checked against the public part before it is used; development certificates say so in their subject,
//! and a folder of such without its marker is refused. A crash leaves nothing.

use crate::{ImageError, tools::Tool};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use std::{
    fs,
    path::{Path, PathBuf},
};
use x509_parser::{
    pem::parse_x509_pem,
    prelude::{FromDer, X509Certificate},
    x509::SubjectPublicKeyInfo,
};

/// The file that marks a folder of development keys.
const MARKER: &str = "DEVELOPMENT";
/// What the subject of every development certificate begins its common name with.
const DEVELOPMENT: &str = "POSTERN DEVELOPMENT";

/// Keys of one purpose each; see `keys/README.md`.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
    development: bool,
}

/// What of a certificate goes into a signature.
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    public: Vec<u8>,
}

impl Keys {
    /// The keys in `folder`, which must fit together.
    ///
    /// # Errors
    /// One is missing, or development certificates stand in a folder that is not marked so.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let keys = Self { folder: folder.to_owned(), development: folder.join(MARKER).exists() };
        for name in ["db", "policy", "rauc"] {
            keys.private(name)?;
        }
        for name in ["PK", "KEK", "db", "policy", "rauc-ca", "rauc", "cloud-ca"] {
            let certificate = keys.certificate(name)?;
            if name == "policy" && certificate.public != keys.policy_public()?.1 {
                return Err(keys.broken(name));
            }
            let subject = X509Certificate::from_der(&certificate.der)
                .map(|(_, parsed)| parsed.subject().to_string())
                .map_err(|_| keys.broken(name))?;
            if subject.contains(DEVELOPMENT) != keys.development {
                let (what, advice) = if keys.development {
                    ("is marked DEVELOPMENT, and its key is none", "keep release keys in a folder of their own")
                } else {
                    ("holds a development key", "give release keys: a release is never signed with made-up keys")
                };
                let what = format!("{} {what}: {name}.crt of {subject}", folder.display());
                return Err(ImageError::Keys { what, advice });
            }
        }
        Ok(keys)
    }

    /// Whether these are development keys, of which every image has to speak.
    #[must_use]
    pub fn development(&self) -> bool {
        self.development
    }

    /// The policy key's public part: PEM as it is in the file, and PKCS#1 DER (RFC 8017 A.1.1).
    pub(crate) fn policy_public(&self) -> Result<(Vec<u8>, Vec<u8>), ImageError> {
        let pem = self.read("policy.pub")?;
        let (_, parsed) = parse_x509_pem(&pem).map_err(|_| self.broken("policy"))?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&parsed.contents).map_err(|_| self.broken("policy"))?;
        let public = info.subject_public_key.data.to_vec();
        // A TPM holds RSA-2048 for certain and hardly ever more.
        match info.parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(key)) if key.key_size() == 2048 => Ok((pem, public)),
            _ => Err(self.broken("policy")),
        }
    }

    /// Signs with the policy key: RSASSA-PKCS1-v1_5 over SHA-256 of `message`.
    pub(crate) fn sign_policy(&self, message: &[u8]) -> Result<Vec<u8>, ImageError> {
        let (_, public) = self.policy_public()?;
        self.sign("policy", &public, message)
    }

    /// Signs with the key of the certificate `name`, in the same way.
    pub(crate) fn sign_as(&self, name: &str, by: &Certificate, message: &[u8]) -> Result<Vec<u8>, ImageError> {
        self.sign(name, &by.public, message)
    }

    fn sign(&self, name: &str, public: &[u8], message: &[u8]) -> Result<Vec<u8>, ImageError> {
        let key = self.private(name)?;
        let mut openssl = Tool::new("openssl", "openssl").args(["dgst", "-sha256"]);
        if key.starts_with("pkcs11:") {
            openssl = openssl.args(["-engine", "pkcs11", "-keyform", "engine"]);
        }
        let signature = openssl.args(["-sign", &key]).run_with(message)?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(message, &signature).map_err(|_| {
            ImageError::Keys {
                what: format!("the private key {name} in {} is not that of its public part", self.folder.display()),
                advice: "put the pair together again",
            }
        })?;
        Ok(signature)
    }

    /// Path or PKCS#11 URI of a private key.
    pub(crate) fn private(&self, name: &str) -> Result<String, ImageError> {
        let file = self.folder.join(format!("{name}.key"));
        if file.is_file() {
            return Ok(file.to_string_lossy().into_owned());
        }
        let uri = fs::read_to_string(self.folder.join(format!("{name}.uri"))).unwrap_or_default();
        if uri.starts_with("pkcs11:") {
            return Ok(uri.trim().to_owned());
        }
        Err(ImageError::Keys {
            what: format!("{} has neither {name}.key nor {name}.uri", self.folder.display()),
            advice: "run keys/make.sh for development keys; keys/README.md says how release keys are made",
        })
    }

    /// What a firmware's set-up menu takes to enrol our Secure Boot keys, by file name: certificates, and where there are
    /// some the signed lists that keys/make.sh makes of them.
    pub(crate) fn enrolment(&self) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
        let mut files = Vec::new();
        for name in ["PK", "KEK", "db"] {
            files.push((format!("{name}.der"), self.certificate(name)?.der));
            let list = format!("{name}.auth");
            if self.folder.join(&list).exists() {
                files.push((list.clone(), self.read(&list)?));
            }
        }
        Ok(files)
    }

    /// The path of a certificate.
    pub(crate) fn certificate_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    pub(crate) fn certificate(&self, name: &str) -> Result<Certificate, ImageError> {
        let pem = self.read(&format!("{name}.crt"))?;
        let (_, parsed) = parse_x509_pem(&pem).map_err(|_| self.broken(name))?;
        let (_, certificate) = X509Certificate::from_der(&parsed.contents).map_err(|_| self.broken(name))?;
        Ok(Certificate {
            issuer: certificate.issuer().as_raw().to_vec(),
            serial: certificate.tbs_certificate.raw_serial().to_vec(),
            public: certificate.public_key().subject_public_key.data.to_vec(),
            der: parsed.contents,
        })
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.folder.join(file);
        fs::read(&path).map_err(|_| ImageError::Keys {
            what: format!("{} cannot be read", path.display()),
            advice: "run keys/make.sh for development keys; keys/README.md says how release keys are made",
        })
    }

    fn broken(&self, name: &str) -> ImageError {
        ImageError::Keys {
            what: format!("the public part of {name} in {} is not what keys/README.md asks for", self.folder.display()),
            advice: "make the pair again as the page says",
        }
    }
}
