//! A factory's list of devices and what they prove themselves with: CSV with the columns id, kind
//! (`key` or `secret`) and key (hex digits).

use std::{collections::HashMap, fmt};

use fota_proto::DeviceId;

use super::{hex, identity::Material};

/// Lines of one list; a larger batch is several lists. While a list is stored, nobody else writes.
pub const CLAIMS_MAX: usize = 2_000;
/// Wrong lines that are told; who has more of them has one mistake in all of them.
pub const WRONG_LINES_MAX: usize = 5;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Counted from 1, the heading included.
    pub line: usize,
    pub device: DeviceId,
    pub material: Material,
}

/// A line that cannot be taken. It never holds what the line holds: that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongLine {
    pub line: usize,
    pub reason: String,
}

impl fmt::Display for WrongLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Reads a list. All of it is right, or the first wrong lines are told.
pub fn parse(text: &str) -> Result<Vec<Claim>, Vec<WrongLine>> {
    let mut claims: Vec<Claim> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut wrong = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let is_heading = line == 1 && text.trim().eq_ignore_ascii_case("id,kind,key");
        if is_heading || text.trim().is_empty() {
            continue;
        }
        let parsed = parse_line(line, text).and_then(|claim| {
            match seen.insert(claim.device.to_string(), line) {
                Some(earlier) => Err(format!("{} stands in line {earlier} too", claim.device)),
                None => Ok(claim),
            }
        });
        match parsed {
            Ok(claim) => claims.push(claim),
            Err(reason) => wrong.push(WrongLine { line, reason }),
        }
        if claims.len() > CLAIMS_MAX {
            let reason = format!("more than {CLAIMS_MAX} devices: split the list");
            wrong.push(WrongLine { line, reason });
        }
        if wrong.len() >= WRONG_LINES_MAX || claims.len() > CLAIMS_MAX {
            break;
        }
    }
    match wrong.is_empty() {
        true => Ok(claims),
        false => Err(wrong),
    }
}

fn parse_line(line: usize, text: &str) -> Result<Claim, String> {
    let cells: Vec<&str> = text.split(',').map(str::trim).collect();
    let [id, kind, key] = cells[..] else {
        let columns = cells.len();
        return Err(format!("{columns} columns; id, kind and key are needed"));
    };
    let device = id
        .parse()
        .map_err(|error: fota_proto::ids::DeviceIdError| error.to_string())?;
    let digits = key.chars().count();
    let material = match kind {
        "key" => Material::key_from_hex(key).ok_or_else(|| {
            format!("no P-256 public key: 130 hex digits beginning with 04 are needed, found {digits} characters")
        })?,
        "secret" => hex::decode(key)
            .map(Material::Secret)
            .ok_or_else(|| format!("no secret: 64 hex digits are needed, found {digits} characters"))?,
        _ => return Err("kind is neither key nor secret".to_owned()),
    };
    Ok(Claim {
        line,
        device,
        material,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_with_or_without_its_heading() {
        let secret = "0f".repeat(32);
        let list = format!(
            "id,kind,key\r\nESP32-001,secret,{secret}\r\n\r\nESP32-002 , secret,{secret}\n"
        );
        let claims = parse(&list).expect("right");
        let read: Vec<_> = claims
            .iter()
            .map(|claim| (claim.line, claim.device.as_str()))
            .collect();
        assert_eq!(read, [(2, "ESP32-001"), (4, "ESP32-002")]);
        assert_eq!(claims[0].material, Material::Secret([0x0f; 32]));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn wrong_lines_are_told_by_number_and_without_their_content() {
        let secret = "0f".repeat(32);
        let list = format!(
            "a,secret,{secret}\nall,secret,{secret}\nb,password,{secret}\nb\nc,secret,{secret}0\na,secret,{secret}\nd,key,{secret}\n"
        );
        let wrong = parse(&list).expect_err("wrong");
        let lines: Vec<_> = wrong.iter().map(|wrong| wrong.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6], "{wrong:?}");
        assert!(
            wrong
                .iter()
                .all(|wrong| !wrong.to_string().contains("0f0f"))
        );
        assert!(wrong[4].reason.contains("line 1"), "{wrong:?}");
    }

    #[test]
    fn a_list_has_an_end() {
        let line = |number: usize| format!("d{number},secret,{}\n", "0f".repeat(32));
        let list: String = (0..=CLAIMS_MAX).map(line).collect();
        let wrong = parse(&list).expect_err("too long");
        assert_eq!(wrong[0].line, CLAIMS_MAX + 1);
    }
}
