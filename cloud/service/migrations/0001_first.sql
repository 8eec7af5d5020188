-- Columns named *_sealed and *_key are AES-256-GCM blobs, *_index and *_hash keyed hashes; nothing else says who wrote
-- to whom about what. Times are seconds since 1970.

CREATE TABLE authority (
    name        TEXT PRIMARY KEY,           -- 'device', 'server', 'check'
    certificate TEXT,                       -- PEM
    secret_sealed BLOB NOT NULL
) STRICT;

CREATE TABLE tenant (
    id          TEXT PRIMARY KEY,
    name_sealed BLOB NOT NULL,
    tenant_key  BLOB NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE appliance (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    certificate TEXT NOT NULL,              -- PEM
    fingerprint BLOB NOT NULL UNIQUE,       -- SHA-256 of the certificate's DER
    public_key  BLOB NOT NULL,              -- SHA-256 of the SubjectPublicKeyInfo's DER
    not_after   INTEGER NOT NULL,
    software    TEXT NOT NULL,
    attestation_sealed BLOB,
    enrolled_at INTEGER NOT NULL,
    revoked_at  INTEGER
) STRICT;

CREATE TABLE enrolment_code (
    code_hash   BLOB PRIMARY KEY,
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    appliance   TEXT REFERENCES appliance (id)  -- who used it
) STRICT;

CREATE TABLE upload (
    appliance   TEXT NOT NULL REFERENCES appliance (id),
    message     TEXT NOT NULL,              -- Postern ID
    delivery    INTEGER NOT NULL,           -- delivery group
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    reference   TEXT NOT NULL UNIQUE,
    message_key BLOB NOT NULL,
    state_sealed BLOB NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (appliance, message, delivery)
) STRICT;

CREATE TABLE message (
    reference   TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    appliance   TEXT NOT NULL REFERENCES appliance (id),
    message     TEXT NOT NULL,
    delivery    INTEGER NOT NULL,
    message_key BLOB NOT NULL,
    facts_sealed BLOB NOT NULL,
    structure_sealed BLOB,
    stored_at   INTEGER NOT NULL,
    UNIQUE (appliance, message, delivery)
) STRICT;

CREATE TABLE recipient (
    id          INTEGER PRIMARY KEY,
    reference   TEXT NOT NULL REFERENCES message (reference) ON DELETE CASCADE,
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    address_index BLOB NOT NULL,
    address_sealed BLOB NOT NULL,
    link_hash   BLOB NOT NULL UNIQUE,
    link_expires_at INTEGER NOT NULL,
    read_at     INTEGER,
    UNIQUE (reference, address_index)
) STRICT;
CREATE INDEX recipient_address ON recipient (address_index, reference);

CREATE TABLE notice (
    recipient   INTEGER PRIMARY KEY REFERENCES recipient (id) ON DELETE CASCADE,
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    link_sealed BLOB,                       -- gone once the notice is sent or given up
    state       INTEGER NOT NULL,           -- 0 waiting, 1 sent, 2 given up
    attempts    INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX notice_due ON notice (state, due_at);

CREATE TABLE account (
    address_index BLOB PRIMARY KEY,
    address_sealed BLOB NOT NULL,
    password_sealed BLOB NOT NULL,          -- the Argon2id string
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE session (
    token_hash  BLOB PRIMARY KEY,
    address_index BLOB NOT NULL REFERENCES account (address_index) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX session_age ON session (created_at);
