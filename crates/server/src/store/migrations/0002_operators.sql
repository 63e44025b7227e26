-- People who may log in. The password is an argon2id hash in PHC form, and absent where a login
-- provider says who somebody is: subject is then its URL, a blank, and its id of the person.
CREATE TABLE account (
    id BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    password TEXT,
    subject TEXT UNIQUE,
    created_at BIGINT NOT NULL,
    password_at BIGINT NOT NULL
);

-- Only the SHA-256 of a token is here: whoever reads the database can use none of them.
CREATE TABLE api_token (
    id BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    owner BIGINT REFERENCES account (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    used_at BIGINT
);
CREATE INDEX api_token_owner ON api_token (owner);

-- Of an account, of a token that a browser exchanged, or of the operator token whose mark is in
-- bootstrap: another operator token ends those sessions.
CREATE TABLE session (
    hash TEXT NOT NULL PRIMARY KEY,
    account BIGINT REFERENCES account (id) ON DELETE CASCADE,
    token BIGINT REFERENCES api_token (id) ON DELETE CASCADE,
    bootstrap TEXT,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX session_account ON session (account);
CREATE INDEX session_token ON session (token);

-- Append-only: each row holds the hash of the one before. See docs/operators.md.
CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    role TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL,
    request TEXT NOT NULL,
    address TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
