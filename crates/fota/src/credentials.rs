//! Tokens: where they are looked for, and the file that `fota login` keeps.
//!
//! Looked for in this order: `--token`, `FOTA_TOKEN`, the credentials file, and for a server on
//! this machine `fota-data/operator-token` below the working folder, so that `fota serve` and
//! `fota upload` in the same folder just work.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Config, Origin, Setting},
    failure::{Exit, Failure, Result},
};

/// The token for `config`'s server, where there is one.
pub fn find(config: &Config) -> Result<Option<Setting<String>>> {
    if let Some(given) = &config.token {
        return Ok(Some(given.clone()));
    }
    let server = config.server.value.trim_end_matches('/');
    if let Some(path) = path()
        && let Some(token) = read(&path)?.remove(server)
    {
        return Ok(Some(Setting::new(token, Origin::File(path))));
    }
    if !is_loopback(server) {
        return Ok(None);
    }
    let path = Path::new("fota-data").join("operator-token");
    let token = std::fs::read_to_string(&path).ok();
    let token = token
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty());
    Ok(token.map(|token| Setting::new(token, Origin::File(path))))
}

/// The token that `fota login` stored for `server`.
pub fn stored(server: &str) -> Result<Option<String>> {
    let Some(path) = path() else {
        return Ok(None);
    };
    Ok(read(&path)?.remove(server.trim_end_matches('/')))
}

/// The credentials file.
pub fn path() -> Option<PathBuf> {
    config::user_dir().map(|dir| dir.join("credentials.toml"))
}

/// Stores the token of `server`; none forgets it.
pub fn store(server: &str, token: Option<&str>) -> Result<PathBuf> {
    let path = path().ok_or_else(|| {
        Failure::error("no home folder for the credentials file").hint("set XDG_CONFIG_HOME")
    })?;
    let mut tokens = read(&path)?;
    let server = server.trim_end_matches('/').to_owned();
    match token {
        Some(token) => tokens.insert(server, token.to_owned()),
        None => tokens.remove(&server),
    };
    let text = toml::to_string(&tokens).map_err(|error| Failure::error(error.to_string()))?;
    write_private(&path, &text)
        .map_err(|error| Failure::error(format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Failure::error(format!("{}: {error}", path.display()))),
    };
    refuse_if_others_may_read(path)?;
    // The parser's own message would quote the line, which holds a token.
    toml::from_str(&text).map_err(|_| {
        Failure::error(format!("{} is damaged", path.display())).hint("remove it and login again")
    })
}

/// Fails where anybody but its owner may read a secret file.
#[cfg(unix)]
pub fn refuse_if_others_may_read(path: &Path) -> Result {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |data| data.permissions().mode());
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    let message = format!(
        "{path} can be read by others (mode {:03o}); 600 is needed",
        mode & 0o777
    );
    Err(Failure::new(Exit::Login, "credentials_open", message).hint(format!("chmod 600 {path}")))
}

/// Fails where anybody but its owner may read a secret file.
#[cfg(not(unix))]
pub fn refuse_if_others_may_read(_path: &Path) -> Result {
    Ok(())
}

/// Writes beside and renames, so that a secret is never in a half-written or a readable file.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension(format!("tmp{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(content.as_ref())?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    renamed
}

/// Whether a URL names this machine.
pub fn is_loopback(server: &str) -> bool {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an @ is a user name, not the host.
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for url in [
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://[::1]:8080/x",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:8080",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com",
            "http://example.com/localhost",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("fota/credentials.toml");
        write_private(&path, "'http://x' = 't'").expect("written");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            read(&path)
                .expect("private")
                .get("http://x")
                .map(String::as_str),
            Some("t")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert_eq!(read(&path).expect_err("refused").exit, Exit::Login);
    }
}
