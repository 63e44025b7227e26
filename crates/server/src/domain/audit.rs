//! The audit log's hash chain: how an entry is hashed, and how a reader finds what was changed.
//!
//! The bytes that are hashed are in docs/operators.md, with an example that a test compares with
//! this file. Whoever noted a [`Head`] can tell later whether everything up to it is still there;
//! without one, a chain that was cut at its end or made anew from some entry on looks whole.

use std::{fmt, str::FromStr};

use fota_proto::{Sha256, operators::AuditEntry};
use sha2::Digest;

/// First line of what is hashed: another layout gets another number.
const LAYOUT: &[u8] = b"fota audit entry 1\n";

/// The last entry that somebody knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first.
    pub seq: i64,
    /// Its hash; zeros before the first.
    pub hash: Sha256,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            seq: 0,
            hash: Sha256([0; 32]),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// A text that is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no head of an audit log: give SEQ:HASH as `fota audit verify` prints it")]
pub struct NoHead;

impl FromStr for Head {
    type Err = NoHead;

    fn from_str(text: &str) -> Result<Self, NoHead> {
        let (seq, hash) = text.split_once(':').ok_or(NoHead)?;
        let seq = seq.parse().ok().filter(|seq| *seq >= 0).ok_or(NoHead)?;
        let hash = hash.parse().map_err(|_| NoHead)?;
        Ok(Self { seq, hash })
    }
}

/// An entry before it has its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    pub actor: String,
    pub role: String,
    pub action: String,
    pub object: String,
    pub detail: String,
    pub request: String,
    pub address: String,
}

impl NewEntry {
    /// The entry that follows `head`.
    pub fn after(self, head: Head, at: i64) -> AuditEntry {
        let mut entry = AuditEntry {
            seq: head.seq + 1,
            at,
            actor: self.actor,
            role: self.role,
            action: self.action,
            object: self.object,
            detail: self.detail,
            request: self.request,
            address: self.address,
            previous: head.hash,
            hash: Sha256([0; 32]),
        };
        entry.hash = hash(&entry);
        entry
    }
}

/// What is hashed: each field as its length in bytes, a colon, its bytes and a line feed, so that
/// no text can pretend to be two fields.
pub fn canonical(entry: &AuditEntry) -> Vec<u8> {
    let (seq, at) = (entry.seq.to_string(), entry.at.to_string());
    let previous = entry.previous.to_string();
    let fields = [
        &seq,
        &at,
        &entry.actor,
        &entry.role,
        &entry.action,
        &entry.object,
        &entry.detail,
        &entry.request,
        &entry.address,
        &previous,
    ];
    let mut bytes = LAYOUT.to_vec();
    for field in fields {
        bytes.extend_from_slice(format!("{}:{field}\n", field.len()).as_bytes());
    }
    bytes
}

/// The hash that an entry must have.
pub fn hash(entry: &AuditEntry) -> Sha256 {
    Sha256(sha2::Sha256::digest(canonical(entry)).into())
}

/// What is wrong with a log, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry is missing, twice there, or out of order.
    #[error(
        "entry {expected} is not in its place: entry {found} is; entries were removed or reordered"
    )]
    Order {
        /// The number that should follow.
        expected: i64,
        /// The number that follows.
        found: i64,
    },
    /// An entry does not follow from the one before.
    #[error(
        "entry {seq} says that {said} came before it, and it was {was}: an entry was exchanged"
    )]
    Link {
        /// The entry.
        seq: i64,
        /// Its `previous`.
        said: Sha256,
        /// The hash of the entry before.
        was: Sha256,
    },
    /// An entry is not what it was when it was written.
    #[error("entry {seq} was changed: its content has hash {computed}, it says {said}")]
    Content {
        /// The entry.
        seq: i64,
        /// Its `hash`.
        said: Sha256,
        /// What its content gives.
        computed: Sha256,
    },
    /// A whole chain, but not the one that was known.
    #[error("entry {seq} has hash {found}; {known} was noted: the log was made anew")]
    OtherChain {
        /// The entry.
        seq: i64,
        /// Its hash.
        found: Sha256,
        /// The hash that was noted.
        known: Sha256,
    },
    /// The end is missing.
    #[error("the log ends at entry {end}; entry {known} was noted: the end was cut off")]
    CutOff {
        /// The last entry.
        end: i64,
        /// The entry that was noted.
        known: i64,
    },
}

/// Goes through a log from its first entry.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    head: Head,
    known: Option<Head>,
}

impl Verifier {
    /// `known` is a head that was noted earlier.
    pub fn new(known: Option<Head>) -> Self {
        Self {
            head: Head::default(),
            known,
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next(&mut self, entry: &AuditEntry) -> Result<(), Broken> {
        let seq = entry.seq;
        if seq != self.head.seq + 1 {
            let expected = self.head.seq + 1;
            return Err(Broken::Order {
                expected,
                found: seq,
            });
        }
        if entry.previous != self.head.hash {
            let (said, was) = (entry.previous, self.head.hash);
            return Err(Broken::Link { seq, said, was });
        }
        let computed = hash(entry);
        if computed != entry.hash {
            let said = entry.hash;
            return Err(Broken::Content {
                seq,
                said,
                computed,
            });
        }
        if let Some(known) = self.known
            && known.seq == seq
            && known.hash != entry.hash
        {
            let (found, known) = (entry.hash, known.hash);
            return Err(Broken::OtherChain { seq, found, known });
        }
        self.head = Head {
            seq,
            hash: entry.hash,
        };
        Ok(())
    }

    /// The head, once all entries have been taken.
    ///
    /// # Errors
    /// [`Broken::CutOff`] where the log ends before the known head.
    pub fn end(self) -> Result<Head, Broken> {
        match self.known {
            Some(known) if known.seq > self.head.seq => Err(Broken::CutOff {
                end: self.head.seq,
                known: known.seq,
            }),
            _ => Ok(self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(length: i64) -> Vec<AuditEntry> {
        let mut head = Head::default();
        let entries = (1..=length).map(|number| {
            let new = NewEntry {
                actor: "user:anna".to_owned(),
                role: "operator".to_owned(),
                action: "rollout.started".to_owned(),
                object: format!("rollout:{number}"),
                detail: "1.0.6 to all".to_owned(),
                request: format!("19ab-{number}"),
                address: "127.0.0.1".to_owned(),
            };
            let entry = new.after(head, 1_795_435_200_000 + number);
            head = Head {
                seq: entry.seq,
                hash: entry.hash,
            };
            entry
        });
        entries.collect()
    }

    fn verify(entries: &[AuditEntry], known: Option<Head>) -> Result<Head, Broken> {
        let mut verifier = Verifier::new(known);
        entries.iter().try_for_each(|entry| verifier.next(entry))?;
        verifier.end()
    }

    fn head_of(entries: &[AuditEntry]) -> Head {
        verify(entries, None).expect("whole")
    }

    #[test]
    fn a_log_that_nobody_touched_is_whole() {
        assert_eq!(verify(&[], None), Ok(Head::default()));
        let entries = log(50);
        let head = head_of(&entries);
        assert_eq!(head.seq, 50);
        assert_eq!(verify(&entries, Some(head)), Ok(head));
        let noted = head_of(&entries[..20]);
        assert_eq!(verify(&entries, Some(noted)), Ok(head), "it may grow");
        assert_eq!(noted.to_string().parse(), Ok(noted));
    }

    #[test]
    fn an_edit_of_any_field_is_found_at_its_entry() {
        type Edit = fn(&mut AuditEntry);
        let edits: [Edit; 10] = [
            |entry| entry.at += 1,
            |entry| entry.actor.push('x'),
            |entry| entry.role = "admin".to_owned(),
            |entry| entry.action = String::new(),
            |entry| entry.object.push('0'),
            |entry| entry.detail = "1.0.5 to all".to_owned(),
            |entry| entry.request.clear(),
            |entry| entry.address = "10.0.0.1".to_owned(),
            |entry| entry.previous.0[0] ^= 1,
            |entry| entry.hash.0[31] ^= 1,
        ];
        for edit in edits {
            for at in [0, 4, 9] {
                let mut entries = log(10);
                edit(&mut entries[at]);
                let seq = entries[at].seq;
                match verify(&entries, None).expect_err("changed") {
                    Broken::Content { seq: found, .. } | Broken::Link { seq: found, .. } => {
                        assert_eq!(found, seq);
                    }
                    other => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn an_edit_that_fixes_its_own_hash_breaks_the_next_link() {
        let mut entries = log(10);
        entries[4].actor = "user:mallory".to_owned();
        entries[4].hash = hash(&entries[4]);
        let broken = verify(&entries, None).expect_err("changed");
        assert!(matches!(broken, Broken::Link { seq: 6, .. }), "{broken}");
    }

    #[test]
    fn a_removed_or_moved_entry_is_found() {
        for at in 0..9 {
            let mut entries = log(10);
            entries.remove(at);
            let broken = verify(&entries, None).expect_err("removed");
            assert!(matches!(broken, Broken::Order { .. }), "{broken}");
            let mut entries = log(10);
            entries.swap(at, at + 1);
            let broken = verify(&entries, None).expect_err("moved");
            assert!(matches!(broken, Broken::Order { .. }), "{broken}");
        }
    }

    #[test]
    fn a_cut_end_and_a_chain_made_anew_are_found_by_a_known_head() {
        let entries = log(10);
        let head = head_of(&entries);
        let cut = verify(&entries[..7], Some(head));
        assert_eq!(cut, Err(Broken::CutOff { end: 7, known: 10 }));
        let mut anew = Head::default();
        let forged: Vec<AuditEntry> = entries
            .iter()
            .map(|entry| {
                let new = NewEntry {
                    actor: "user:mallory".to_owned(),
                    role: entry.role.clone(),
                    action: entry.action.clone(),
                    object: entry.object.clone(),
                    detail: entry.detail.clone(),
                    request: entry.request.clone(),
                    address: entry.address.clone(),
                };
                let entry = new.after(anew, entry.at);
                anew = Head {
                    seq: entry.seq,
                    hash: entry.hash,
                };
                entry
            })
            .collect();
        assert!(verify(&forged, None).is_ok(), "a chain alone proves no age");
        let broken = verify(&forged, Some(head)).expect_err("another chain");
        assert!(
            matches!(broken, Broken::OtherChain { seq: 10, .. }),
            "{broken}"
        );
    }

    #[test]
    fn no_text_can_pretend_to_be_two_fields() {
        let mut one = log(1).remove(0);
        let mut other = one.clone();
        (one.object, one.detail) = ("a\n1:b".to_owned(), "c".to_owned());
        (other.object, other.detail) = ("a".to_owned(), "b\n1:c".to_owned());
        assert_ne!(hash(&one), hash(&other));
    }

    /// The example of the document, byte for byte.
    #[test]
    fn the_document_shows_what_is_hashed() {
        let document = include_str!("../../../../docs/operators.md");
        let entry = log(1).remove(0);
        let bytes = String::from_utf8(canonical(&entry)).expect("text");
        assert!(
            document.contains(&bytes),
            "docs/operators.md should show:\n{bytes}"
        );
        let hash = entry.hash.to_string();
        assert!(document.contains(&hash), "docs/operators.md needs {hash}");
    }
}
