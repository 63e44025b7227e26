//! Where a webhook may go. Whoever adds one makes the server send requests, so addresses at which
//! only a machine's own keeper answers are refused: those of cloud metadata, above all.
//!
//! Private and loopback addresses are taken: a self-hosted receiver is usually there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 2048;
/// Metadata services that are not on a link-local address: Alibaba's, and that of AWS by IPv6.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Why a URL is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("has {0} bytes; at most {URL_BYTES_MAX} are taken")]
    Length(usize),
    #[error("is no URL: write https://host/path")]
    Syntax,
    #[error("has the scheme {0:?}: give http or https")]
    Scheme(String),
    #[error("has a user or a fragment: leave them out; deliveries prove themselves by signature")]
    Parts,
    #[error("leads to {0}, a link-local, metadata or multicast address: give another")]
    Address(IpAddr),
}

/// Reads the URL of a webhook. A name is looked up, and its addresses judged, at each delivery.
///
/// # Errors
/// Where a webhook must not go there.
pub fn parse(text: &str) -> Result<Url, UrlError> {
    if text.len() > URL_BYTES_MAX {
        return Err(UrlError::Length(text.len()));
    }
    let url: Url = text.parse().map_err(|_| UrlError::Syntax)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme(url.scheme().chars().take(40).collect()));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(UrlError::Parts);
    }
    // The parser has brought every spelling of an IPv4 address into the usual one.
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or(UrlError::Syntax)?;
    let address = host.trim_matches(['[', ']']).parse().ok();
    match address.filter(|ip: &IpAddr| is_refused(*ip)) {
        Some(ip) => Err(UrlError::Address(ip)),
        None => Ok(url),
    }
}

/// Whether nothing is ever sent there.
pub fn is_refused(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let own_kind = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    own_kind || ip.is_multicast() || ip.is_unspecified() || METADATA.contains(&ip)
}

/// Looks names up and leaves out what is refused; the connection is made to what this gives, so a
/// name that changes its mind between a check and a connection gains nothing.
#[derive(Debug)]
pub struct Lookup;

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let all: Vec<SocketAddr> = found.collect();
            let taken: Vec<_> = all
                .iter()
                .copied()
                .filter(|at| !is_refused(at.ip()))
                .collect();
            match (taken.is_empty(), all.first()) {
                (true, Some(refused)) => Err(UrlError::Address(refused.ip()).into()),
                _ => Ok(Box::new(taken.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_webhook_may_not_reach_is_refused_in_every_spelling() {
        for text in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
        ] {
            assert!(matches!(parse(text), Err(UrlError::Address(_))), "{text}");
        }
        for text in ["ftp://a/", "file:///etc/passwd", "gopher://a", "unix:/a"] {
            assert!(matches!(parse(text), Err(UrlError::Scheme(_))), "{text}");
        }
        for text in ["https://u@a/", "https://u:p@a/", "https://a/#x"] {
            assert_eq!(parse(text), Err(UrlError::Parts), "{text}");
        }
        for text in ["", "/hook", "http://", "https:///", "a b"] {
            assert_eq!(parse(text), Err(UrlError::Syntax), "{text}");
        }
        let long = format!("https://a/{}", "x".repeat(URL_BYTES_MAX));
        assert!(matches!(parse(&long), Err(UrlError::Length(_))));
    }

    #[test]
    fn a_receiver_at_home_is_taken() {
        for text in [
            "http://127.0.0.1:1880/fota",
            "http://192.168.1.7/",
            "http://[::1]:8080/x?y=1",
            "https://hooks.example/T/B",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_looked_up() {
        let name: Name = "localhost".parse().expect("a name");
        let found: Vec<_> = Lookup.resolve(name).await.expect("found").collect();
        assert!(found.iter().all(|at| at.ip().is_loopback()), "{found:?}");
    }
}
