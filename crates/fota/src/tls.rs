//! The options of `fota serve` that are about TLS and proxies.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use fota_server::{
    Config,
    http::{Proxies, ProxyHeader},
    tls::{self, Source},
};

use crate::failure::{Failure, Result};

/// How the server is reached.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "TLS and proxies")]
pub struct TlsArgs {
    /// Certificate chain (PEM); with it the server speaks TLS. New files are taken up without a
    /// restart: when they change, and at SIGHUP
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        conflicts_with = "tls_self_signed"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Make a certificate in the data folder at the first start, and print its fingerprint
    #[arg(long)]
    pub tls_self_signed: bool,
    /// Host name or address that the self-signed certificate is for, besides the usual ones
    #[arg(long, value_name = "NAME", requires = "tls_self_signed")]
    pub tls_name: Vec<String>,
    /// Authority of client certificates (PEM): a device with one speaks for the device it names
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Answer devices only with a client certificate
    #[arg(long, requires = "tls_client_ca")]
    pub require_client_cert: bool,
    /// Get a certificate for this name from an ACME authority (Let's Encrypt); port 443 of the
    /// name must lead here
    #[cfg(feature = "acme")]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tls_cert", "tls_self_signed"])]
    pub acme: Vec<String>,
    /// Directory of another ACME authority
    #[cfg(feature = "acme")]
    #[arg(long, value_name = "URL", default_value = tls::acme::LETS_ENCRYPT, requires = "acme")]
    pub acme_directory: String,
    /// Whom the ACME authority may write to, mailto:…
    #[cfg(feature = "acme")]
    #[arg(long, value_name = "URL", requires = "acme")]
    pub acme_contact: Option<String>,
    /// Root of the ACME authority's own certificate (PEM), where it is one of yours
    #[cfg(feature = "acme")]
    #[arg(long, value_name = "FILE", requires = "acme")]
    pub acme_root: Option<PathBuf>,
    /// A proxy that is believed when it names the client: address or network; repeatable
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<String>,
    /// Which headers the trusted proxies set; the other kind is never believed
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    pub proxy_header: Header,
    /// Address that the outside knows this server under
    #[arg(long, value_name = "https://…")]
    pub public_url: Option<String>,
    /// Connections that one address may have at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_address: Option<u32>,
}

/// The headers of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Header {
    /// X-Forwarded-For, -Proto and -Host
    #[default]
    XForwarded,
    /// Forwarded (RFC 7239)
    Forwarded,
}

impl TlsArgs {
    /// Takes the options over into the server's settings.
    pub fn apply(self, config: &mut Config) -> Result {
        let header = match self.proxy_header {
            Header::XForwarded => ProxyHeader::XForwarded,
            Header::Forwarded => ProxyHeader::Forwarded,
        };
        let proxies = Proxies::parse(&self.trusted_proxy, header);
        config.proxies =
            proxies.map_err(|reason| Failure::usage(format!("--trusted-proxy: {reason}")))?;
        if let Some(max) = self.connections_per_address {
            config.limits.connections_per_address_max = max;
        }
        config.public_url.clone_from(&self.public_url);
        config.tls = match self.source(config.listen) {
            Some(source) => Some(tls::Config {
                client_ca: self.tls_client_ca,
                client_cert_required: self.require_client_cert,
                ..tls::Config::new(source)
            }),
            None if self.tls_client_ca.is_some() => {
                return Err(Failure::usage("--tls-client-ca needs TLS")
                    .hint("add --tls-cert and --tls-key, or --tls-self-signed"));
            }
            None => None,
        };
        Ok(())
    }

    fn source(&self, listen: SocketAddr) -> Option<Source> {
        #[cfg(feature = "acme")]
        if !self.acme.is_empty() {
            return Some(Source::Acme(tls::acme::Config {
                directory: self.acme_directory.clone(),
                names: self.acme.clone(),
                contact: self.acme_contact.clone(),
                root: self.acme_root.clone(),
            }));
        }
        if self.tls_self_signed {
            return Some(Source::SelfSigned {
                names: self.names(listen),
            });
        }
        let (cert, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(Source::Files { cert, key })
    }

    /// This machine's loopback names, the address listened on, and those that were given.
    fn names(&self, listen: SocketAddr) -> Vec<String> {
        let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut names = loopback.to_vec();
        if !listen.ip().is_unspecified() && !listen.ip().is_loopback() {
            names.push(listen.ip().to_string());
        }
        names.extend(self.tls_name.iter().cloned());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(args: TlsArgs) -> Result<Config> {
        let mut config = Config::new("data");
        args.apply(&mut config).map(|()| config)
    }

    #[test]
    fn without_options_nothing_changes() {
        let config = applied(TlsArgs::default()).expect("fine");
        assert!(config.tls.is_none() && config.public_url.is_none());
    }

    #[test]
    fn a_client_ca_without_tls_is_refused() {
        let args = TlsArgs {
            tls_client_ca: Some("ca.pem".into()),
            ..TlsArgs::default()
        };
        let refused = applied(args).err().expect("refused");
        assert!(refused.message.contains("TLS"));
    }

    #[test]
    fn the_self_signed_certificate_is_for_the_address_and_the_names_given() {
        let args = TlsArgs {
            tls_name: vec!["fota.local".to_owned()],
            ..TlsArgs::default()
        };
        let names = args.names("10.0.0.5:443".parse().expect("an address"));
        let wanted = ["localhost", "127.0.0.1", "::1", "10.0.0.5", "fota.local"];
        assert_eq!(names, wanted);
        let everywhere = args.names("0.0.0.0:443".parse().expect("an address"));
        assert!(!everywhere.contains(&"0.0.0.0".to_owned()));
    }
}
