//! Where a request comes from and under which address it reached us, also behind proxies.
//!
//! A header is only believed from a peer that the operator trusts, and only the one kind of
//! header that this proxy sets: a proxy that sets `X-Forwarded-For` hands on whatever `Forwarded`
//! a client made up, and the other way round.

use std::{net::IpAddr, net::SocketAddr, str::FromStr};

use axum::http::{Extensions, HeaderMap, HeaderName, header};
use ipnet::IpNet;

use crate::Config;

/// Hops that are looked at; more proxies in a row are a loop or a lie.
const HOPS_MAX: usize = 16;
/// A name has at most 253 characters, a port five.
const HOST_BYTES_MAX: usize = 260;

/// Which headers the trusted proxies set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, `-Proto` and `-Host`: nginx, Caddy, HAProxy, Traefik.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The proxies that are believed.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
}

/// How a request reached us, as far as we can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via {
    /// Whether the client spoke TLS, to us or to a trusted proxy.
    pub https: bool,
    /// The host that a trusted proxy was asked for.
    pub host: Option<String>,
}

impl Proxies {
    /// Trusts peers in these networks, `10.0.0.0/8` or plain addresses.
    ///
    /// # Errors
    /// What is wrong with which text.
    pub fn parse(networks: &[String], header: ProxyHeader) -> Result<Self, String> {
        let parse = |text: &String| {
            let net = IpNet::from_str(text).or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| {
                format!("{text:?} is no network: write 10.0.0.0/8, ::1/128 or 10.0.0.2")
            })
        };
        Ok(Self {
            networks: networks.iter().map(parse).collect::<Result<_, _>>()?,
            header,
        })
    }

    /// Whether what this peer says of others is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&peer))
    }

    /// The client's address and its way.
    pub(super) fn resolve(&self, peer: IpAddr, is_tls: bool, headers: &HeaderMap) -> (IpAddr, Via) {
        let direct = Via {
            https: is_tls,
            host: None,
        };
        if !self.trusts(peer) {
            return (peer, direct);
        }
        match self.header {
            ProxyHeader::XForwarded => self.x_forwarded(peer, direct, headers),
            ProxyHeader::Forwarded => self.forwarded(peer, direct, headers),
        }
    }

    fn x_forwarded(&self, peer: IpAddr, direct: Via, headers: &HeaderMap) -> (IpAddr, Via) {
        const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
        const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
        const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
        let mut client = peer;
        for hop in from_the_right(headers, &FOR).take(HOPS_MAX) {
            let Some(addr) = address(hop) else { break };
            client = addr;
            if !self.trusts(addr) {
                break;
            }
        }
        let proto = from_the_right(headers, &PROTO).next();
        let host = from_the_right(headers, &HOST).next();
        let via = Via {
            https: proto.map_or(direct.https, is_https),
            host: host.filter(|host| is_plain(host)).map(str::to_owned),
        };
        (client, via)
    }

    /// What the first trusted proxy, seen from the client, says counts: the ones behind it only
    /// know their neighbours.
    fn forwarded(&self, peer: IpAddr, direct: Via, headers: &HeaderMap) -> (IpAddr, Via) {
        let (mut client, mut via) = (peer, direct);
        for element in from_the_right(headers, &header::FORWARDED).take(HOPS_MAX) {
            let of = |name| parameter(element, name);
            let Some(addr) = of("for").and_then(address) else {
                break;
            };
            client = addr;
            if let Some(proto) = of("proto") {
                via.https = is_https(proto);
            }
            if let Some(host) = of("host").filter(|host| is_plain(host)) {
                via.host = Some(host.to_owned());
            }
            if !self.trusts(addr) {
                break;
            }
        }
        (client, via)
    }
}

/// The comma-separated values of a header that may come several times, last first.
fn from_the_right<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> + use<'h> {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    let texts = values.into_iter().rev();
    texts
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.rsplit(','))
        .map(str::trim)
}

/// `name=value` or `name="value"` of one element of `Forwarded`.
fn parameter<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// An address with or without a port; none for `unknown` and made-up names.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    let addr = plain.parse().ok();
    let addr = addr.or_else(|| {
        text.parse()
            .ok()
            .map(|with_port: SocketAddr| with_port.ip())
    });
    addr.map(|addr| addr.to_canonical())
}

fn is_https(proto: &str) -> bool {
    proto.eq_ignore_ascii_case("https")
}

/// Only what a host is made of: it goes into pages and commands.
fn is_plain(host: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b".-:[]".contains(&c);
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(plain)
}

/// The address that the outside knows this server under, without a slash at its end: the one that
/// the operator gave, or the one that the request was made to.
pub fn public_base(config: &Config, extensions: &Extensions, headers: &HeaderMap) -> String {
    if let Some(url) = &config.public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let via = extensions.get::<Via>().cloned().unwrap_or_default();
    let asked = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = via.host.or_else(|| {
        let host = asked.filter(|host| is_plain(host));
        host.map(str::to_owned)
    });
    let host = host.unwrap_or_else(|| config.listen.to_string());
    let scheme = if via.https { "https" } else { "http" };
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.2";

    fn resolved(header: ProxyHeader, peer: &str, lines: &[(&str, &str)]) -> (String, Via) {
        let networks = ["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let proxies = Proxies::parse(&networks, header).expect("networks");
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_str(name).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        let (addr, via) = proxies.resolve(peer.parse().expect("an address"), false, &headers);
        (addr.to_string(), via)
    }

    #[test]
    fn x_forwarded_is_read_from_the_right_up_to_the_first_stranger() {
        let cases = [
            ("203.0.113.7", "203.0.113.7"),
            ("1.1.1.1, 203.0.113.7", "203.0.113.7"),
            ("1.1.1.1, 203.0.113.7, 10.9.9.9", "203.0.113.7"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("1.1.1.1, unknown", PROXY),
            ("", PROXY),
            ("10.1.1.1", "10.1.1.1"),
        ];
        for (given, client) in cases {
            let lines = [("x-forwarded-for", given)];
            let (addr, _) = resolved(ProxyHeader::XForwarded, PROXY, &lines);
            assert_eq!(addr, client, "{given}");
        }
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "9.9.9.9"),
        ];
        assert_eq!(
            resolved(ProxyHeader::XForwarded, PROXY, &lines).0,
            "9.9.9.9"
        );
    }

    #[test]
    fn a_stranger_is_not_believed_and_neither_is_the_other_kind_of_header() {
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=2.2.2.2;proto=https;host=evil.example"),
        ];
        let direct = Via::default();
        for header in [ProxyHeader::XForwarded, ProxyHeader::Forwarded] {
            let (addr, via) = resolved(header, "203.0.113.7", &lines);
            assert_eq!((addr.as_str(), via), ("203.0.113.7", direct.clone()));
        }
        let made_up = [lines[3]];
        let (addr, via) = resolved(ProxyHeader::XForwarded, PROXY, &made_up);
        assert_eq!((addr.as_str(), via), (PROXY, direct.clone()));
        let (addr, via) = resolved(ProxyHeader::Forwarded, PROXY, &lines[..3]);
        assert_eq!((addr.as_str(), via), (PROXY, direct));
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_says() {
        let edge = Via {
            https: true,
            host: Some("fota.example".to_owned()),
        };
        for given in [
            "for=203.0.113.7;proto=https;host=fota.example",
            "For=\"203.0.113.7:4711\"; Proto=HTTPS; host=\"fota.example\"",
            "for=1.1.1.1, for=203.0.113.7;proto=https;host=fota.example, for=10.0.0.9;by=x",
        ] {
            let lines = [("forwarded", given)];
            let (addr, via) = resolved(ProxyHeader::Forwarded, PROXY, &lines);
            assert_eq!((addr.as_str(), &via), ("203.0.113.7", &edge), "{given}");
        }
        let lines = [("forwarded", "for=\"[2001:db8::7]\"")];
        assert_eq!(
            resolved(ProxyHeader::Forwarded, PROXY, &lines).0,
            "2001:db8::7"
        );
    }

    #[test]
    fn a_host_that_could_change_a_page_is_not_taken() {
        for bad in ["a b", "x/y", "<script>", "a\"b", &"a".repeat(300)] {
            let lines = [("x-forwarded-host", bad)];
            assert_eq!(
                resolved(ProxyHeader::XForwarded, PROXY, &lines).1.host,
                None
            );
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        let error = Proxies::parse(&["10.0.0.0/99".to_owned()], ProxyHeader::default());
        assert!(error.expect_err("refused").contains("10.0.0.0/99"));
    }
}
