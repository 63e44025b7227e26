//! Where settings come from: flags, then the environment, then `fota.toml` of the project (looked
//! for upwards), then the user's `config.toml`, then the defaults.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    args::Global,
    credentials,
    failure::{Failure, Result},
};

/// Server where nothing names one.
pub const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";
/// Folders looked through upwards for `fota.toml`.
const PARENTS_MAX: usize = 64;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Env(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => f.write_str(name),
            Self::Env(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Setting<T> {
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Setting<String>,
    /// Image to upload where none is named.
    pub firmware: Option<Setting<PathBuf>>,
    /// Token that was given by flag or environment.
    pub token: Option<Setting<String>>,
    /// Certificates that the server's must come from.
    pub ca: Option<Setting<PathBuf>>,
}

/// A configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    firmware: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl Config {
    /// Reads the environment and the files around the working folder.
    pub fn read(global: &Global) -> Result<Self> {
        let project = find_upwards(&std::env::current_dir().unwrap_or_default(), "fota.toml");
        let user = user_dir().map(|dir| dir.join("config.toml"));
        let files = [project, user].into_iter().flatten();
        let files: Vec<_> = files.map(read_file).collect::<Result<_>>()?;
        Ok(Self::merge(
            global,
            env,
            &files.into_iter().flatten().collect::<Vec<_>>(),
        ))
    }

    fn merge(
        global: &Global,
        env: impl Fn(&'static str) -> Option<String>,
        files: &[(PathBuf, File)],
    ) -> Self {
        let given = |flag: &Option<String>, flag_name, env_name| {
            let flag = flag
                .clone()
                .map(|value| Setting::new(value, Origin::Flag(flag_name)));
            flag.or_else(|| env(env_name).map(|value| Setting::new(value, Origin::Env(env_name))))
        };
        let in_files = files.iter().find_map(|(path, file)| {
            let server = file.server.clone()?;
            Some(Setting::new(server, Origin::File(path.clone())))
        });
        let path_in_files = |of: fn(&File) -> Option<&PathBuf>| {
            files.iter().find_map(|(path, file)| {
                let folder = path.parent().unwrap_or(Path::new(""));
                let named = folder.join(of(file)?);
                Some(Setting::new(named, Origin::File(path.clone())))
            })
        };
        let firmware = path_in_files(|file| file.firmware.as_ref());
        let ca = global.ca.clone().map(|ca| ca.display().to_string());
        let ca = given(&ca, "--ca", "FOTA_CA");
        let ca = ca.map(|ca| Setting::new(PathBuf::from(ca.value), ca.origin));
        let default = || Setting::new(SERVER_DEFAULT.to_owned(), Origin::Default);
        Self {
            server: given(&global.server, "--server", "FOTA_SERVER")
                .or(in_files)
                .unwrap_or_else(default),
            firmware,
            token: given(&global.token, "--token", "FOTA_TOKEN"),
            ca: ca.or_else(|| path_in_files(|file| file.ca.as_ref())),
        }
    }

    /// What the server's certificate must come from, as PEM; none means what the system trusts.
    ///
    /// For a server on this machine the certificate that `fota serve --tls-self-signed` made below
    /// the working folder is taken, so that the two just work together.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>> {
        if let Some(ca) = &self.ca {
            let read = std::fs::read(&ca.value);
            return read.map(Some).map_err(|error| {
                let message = format!("{} ({}): {error}", ca.value.display(), ca.origin);
                Failure::usage(message)
            });
        }
        let server = &self.server.value;
        let is_own = server.starts_with("https://") && credentials::is_loopback(server);
        let own = is_own.then(|| std::fs::read(Path::new("fota-data").join("tls-cert.pem")));
        Ok(own.and_then(std::result::Result::ok))
    }
}

/// An environment variable that is set and not empty.
pub fn env(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder of the user's own settings and credentials.
pub fn user_dir() -> Option<PathBuf> {
    let env = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = match std::env::consts::OS {
        "windows" => env("APPDATA"),
        "macos" => env("XDG_CONFIG_HOME")
            .or_else(|| env("HOME").map(|home| home.join("Library/Application Support"))),
        _ => env("XDG_CONFIG_HOME").or_else(|| env("HOME").map(|home| home.join(".config"))),
    };
    base.map(|base| base.join("fota"))
}

fn find_upwards(from: &Path, name: &str) -> Option<PathBuf> {
    let folders = from.ancestors().take(PARENTS_MAX);
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn read_file(path: PathBuf) -> Result<Option<(PathBuf, File)>> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::error(format!("{}: {error}", path.display()))),
    };
    match toml::from_str(&text) {
        Ok(file) => Ok(Some((path, file))),
        Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))
            .hint("known settings are `server`, `firmware` and `ca`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> (PathBuf, File) {
        (path.into(), toml::from_str(text).expect("valid"))
    }

    #[test]
    fn flags_beat_environment_beat_project_beat_user() {
        let files = [
            file(
                "/p/fota.toml",
                "server = 'http://project'\nfirmware = 'build/app.bin'",
            ),
            file("/u/config.toml", "server = 'http://user'"),
        ];
        let flag = Global {
            server: Some("http://flag".into()),
            ..Global::default()
        };
        let env = |name| (name == "FOTA_SERVER").then(|| "http://env".to_owned());
        let none = |_| None;
        let server = |config: Config| config.server.value;
        assert_eq!(server(Config::merge(&flag, env, &files)), "http://flag");
        let plain = Global::default();
        assert_eq!(server(Config::merge(&plain, env, &files)), "http://env");
        assert_eq!(
            server(Config::merge(&plain, none, &files)),
            "http://project"
        );
        assert_eq!(
            server(Config::merge(&plain, none, &files[1..])),
            "http://user"
        );
        assert_eq!(server(Config::merge(&plain, none, &[])), SERVER_DEFAULT);
        let firmware = Config::merge(&plain, none, &files).firmware.expect("named");
        assert_eq!(firmware.value, Path::new("/p/build/app.bin"));
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(toml::from_str::<File>("sever = 'x'").is_err());
    }
}
