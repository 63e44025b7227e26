//! Making roots, and counting who has signed them.

use fota_proto::{
    limits::KEYS_MAX,
    list::List,
    signed::{Envelope, Form, KeyId, Role, RoleName, Root, sign},
};

use super::invalid;
use crate::{
    failure::{Failure, Result},
    keys::Public,
};

const ROLES: [RoleName; 3] = [RoleName::Root, RoleName::Release, RoleName::Online];

/// A root that is being put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    version: u32,
    /// Keys of the root, release and online role.
    keys: [Vec<Public>; 3],
    /// How many root and release keys must sign.
    thresholds: [u8; 2],
    pub expires: Option<u64>,
    pub product: Option<String>,
}

impl Draft {
    /// Root 1.
    pub fn first(keys: [Vec<Public>; 3], thresholds: [u8; 2]) -> Self {
        Self {
            version: 1,
            keys,
            thresholds,
            expires: None,
            product: None,
        }
    }

    /// The root that follows this one, with the same content.
    pub fn after(root: &Root<'_>) -> Result<Self> {
        let version = root.version.checked_add(1);
        Ok(Self {
            version: version.ok_or_else(|| Failure::refused("root", "this is the last root"))?,
            keys: ROLES.map(|role| root.keys_of(role).copied().map(Public::of).collect()),
            thresholds: [root.root.threshold, root.release.threshold],
            expires: root.expires,
            product: root.product.map(str::to_owned),
        })
    }

    /// Its number.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Gives a key a role.
    pub fn add(&mut self, role: RoleName, key: Public) -> Result {
        let keys = &mut self.keys[role as usize];
        if keys.contains(&key) {
            let message = format!("key {} is a {role} key already", key.id());
            return Err(Failure::refused("root", message));
        }
        keys.push(key);
        Ok(())
    }

    /// Takes a role from a key.
    pub fn remove(&mut self, role: RoleName, key: &Public) -> Result {
        let keys = &mut self.keys[role as usize];
        let Some(at) = keys.iter().position(|it| it == key) else {
            let message = format!("key {} is no {role} key", key.id());
            return Err(Failure::not_found(message));
        };
        keys.remove(at);
        Ok(())
    }

    /// Puts a key in the place of another in all its roles; without one it only goes. Gives the
    /// roles that the old one had.
    pub fn replace(&mut self, old: &Public, new: Option<&Public>) -> Vec<RoleName> {
        let mut had = Vec::new();
        for role in ROLES {
            let keys = &mut self.keys[role as usize];
            let Some(at) = keys.iter().position(|key| key == old) else {
                continue;
            };
            had.push(role);
            match new {
                Some(new) => keys[at] = new.clone(),
                None => drop(keys.remove(at)),
            }
        }
        had
    }

    /// Sets how many root or release keys must sign; an online key answers alone.
    pub fn set_threshold(&mut self, role: RoleName, threshold: Option<u8>) {
        if let (Some(threshold), Some(place)) = (threshold, self.thresholds.get_mut(role as usize))
        {
            *place = threshold;
        }
    }

    /// The root with no signature yet.
    pub fn unsigned(&self) -> Result<Vec<u8>> {
        let payload = self.payload()?;
        let object = sign::sign(Form::Sign, &payload, &[]);
        object.map_err(|error| Failure::refused("root", error.to_string()))
    }

    fn payload(&self) -> Result<Vec<u8>> {
        self.refuse_nonsense()?;
        let mut distinct: Vec<&Public> = Vec::new();
        for key in self.keys.iter().flatten() {
            if !distinct.contains(&key) {
                distinct.push(key);
            }
        }
        let mut list = List::new();
        for key in &distinct {
            let full = |_| {
                let message = format!("{} keys; a root holds {KEYS_MAX}", distinct.len());
                Failure::refused("root", message)
            };
            list.push(key.key()).map_err(full)?;
        }
        let index = |key: &Public| distinct.iter().position(|it| *it == key);
        let role = |name: RoleName| {
            let mut indexes: Vec<_> = self.keys[name as usize].iter().filter_map(index).collect();
            indexes.sort_unstable();
            let mut keys = List::new();
            for index in indexes {
                let _ = keys.push(index as u8); // no more than there are distinct ones
            }
            let threshold = self.thresholds.get(name as usize).copied().unwrap_or(1);
            Role { threshold, keys }
        };
        let mut root = Root::new(self.version, list, ROLES.map(role)).map_err(invalid)?;
        root.expires = self.expires;
        root.product = self.product.as_deref();
        let payload = sign::encode(&root);
        let payload = payload.map_err(|error| Failure::refused("root", error.to_string()))?;
        Root::parse(&payload).map_err(invalid)?;
        Ok(payload)
    }

    fn refuse_nonsense(&self) -> Result {
        for (role, keys) in ROLES.into_iter().zip(&self.keys) {
            let repeats = (1..keys.len()).find(|at| keys[..*at].contains(&keys[*at]));
            if let Some(at) = repeats {
                let message = format!("key {} is named twice as {role} key", keys[at].id());
                return Err(Failure::usage(message));
            }
            let threshold = self.thresholds.get(role as usize).copied().unwrap_or(1);
            let have = keys.len();
            if threshold == 0 || usize::from(threshold) > have {
                let message = format!("{threshold} of {have} {role} keys cannot sign");
                return Err(Failure::usage(message)
                    .hint(format!("name more {role} keys, or another threshold")));
            }
        }
        // The online key lies on a machine that is in the network.
        let [root, release, online] = &self.keys;
        match online
            .iter()
            .find(|key| root.contains(key) || release.contains(key))
        {
            None => Ok(()),
            Some(key) => Err(Failure::refused(
                "root",
                format!("online key {} may sign nothing but answers", key.id()),
            )
            .hint("whoever steals the server would have it: take another root or release key")),
        }
    }
}

/// What a root still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The root whose keys these are.
    pub version: u32,
    pub threshold: u8,
    /// Keys that have signed.
    pub signed: Vec<KeyId>,
    /// Keys that could.
    pub open: Vec<KeyId>,
}

impl Need {
    /// Signatures that are missing.
    pub fn missing(&self) -> usize {
        usize::from(self.threshold).saturating_sub(self.signed.len())
    }
}

/// Who must sign a root: a threshold of its own root keys, and of those of the one before.
pub fn needs(root: &Root<'_>, before: Option<&Root<'_>>, envelope: &Envelope<'_>) -> Vec<Need> {
    let need = |of: &Root<'_>| {
        let ids = |signed: bool| {
            let keys = of.keys_of(RoleName::Root);
            let wanted = keys.filter(|key| envelope.is_signed_by(key) == signed);
            wanted.map(|key| key.id()).collect()
        };
        Need {
            version: of.version,
            threshold: of.root.threshold,
            signed: ids(true),
            open: ids(false),
        }
    };
    before.into_iter().chain([root]).map(need).collect()
}

/// How many people must still sign at least: a key that is in both roots counts for both.
pub fn fewest_missing(needs: &[Need]) -> usize {
    let [before, after] = needs else {
        return needs.iter().map(Need::missing).sum();
    };
    let in_both = before
        .open
        .iter()
        .filter(|id| after.open.contains(id))
        .count();
    let (one, other) = (before.missing(), after.missing());
    one + other - one.min(other).min(in_both)
}

#[cfg(test)]
mod tests {
    use fota_proto::signed::Alg;

    use super::*;
    use crate::{failure::Exit, keys::Secret};

    fn secret(number: u8) -> Secret {
        Secret::new(Alg::Esp256, [number; 32]).expect("in range")
    }

    fn publics(numbers: &[u8]) -> Vec<Public> {
        numbers
            .iter()
            .map(|number| secret(*number).public())
            .collect()
    }

    fn draft(root: &[u8], release: &[u8], online: &[u8], thresholds: [u8; 2]) -> Draft {
        Draft::first(
            [publics(root), publics(release), publics(online)],
            thresholds,
        )
    }

    #[test]
    fn a_key_can_be_replaced_and_the_old_keys_agree() {
        let first = draft(&[1, 2, 3], &[4], &[5], [2, 1]);
        let unsigned = first.unsigned().expect("consistent");
        let signers = [secret(1).signer(), secret(3).signer()];
        let first = super::super::add_signatures(&unsigned, &signers).expect("signed");
        let trusted = Root::first(&first).expect("two of three");
        let mut next = Draft::after(&trusted).expect("not the last");
        let had = next.replace(&secret(1).public(), Some(&secret(6).public()));
        assert_eq!(had, [RoleName::Root]);
        let unsigned = next.unsigned().expect("consistent");
        let envelope = Envelope::parse(&unsigned).expect("well-formed");
        let root = Root::parse(envelope.payload).expect("a root");
        let missing = |object: &[u8]| {
            let envelope = Envelope::parse(object).expect("well-formed");
            let needs = needs(&root, Some(&trusted), &envelope);
            let each = needs.iter().map(Need::missing).collect::<Vec<_>>();
            (each[0], each[1], fewest_missing(&needs))
        };
        assert_eq!(missing(&unsigned), (2, 2, 2));
        // One that is in both counts for both.
        let one = super::super::add_signatures(&unsigned, &[secret(3).signer()]).expect("signed");
        assert_eq!(missing(&one), (1, 1, 1));
        let new = super::super::add_signatures(&unsigned, &[secret(6).signer()]).expect("signed");
        let both = super::super::add_signatures(&new, &[secret(3).signer()]).expect("signed");
        assert_eq!((missing(&new), missing(&both)), ((2, 1, 2), (1, 0, 1)));
        let others = [secret(1).signer(), secret(6).signer()];
        let all = super::super::add_signatures(&one, &others).expect("signed");
        assert_eq!(missing(&all), (0, 0, 0));
        assert_eq!(trusted.succeed(&all).expect("trusted").version, 2);
    }

    #[test]
    fn a_root_that_makes_no_sense_is_refused() {
        let cases = [
            (draft(&[1], &[2], &[3], [2, 1]), Exit::Usage),
            (draft(&[1], &[2], &[3], [1, 0]), Exit::Usage),
            (draft(&[1], &[2], &[], [1, 1]), Exit::Usage),
            (draft(&[1, 1], &[2], &[3], [1, 1]), Exit::Usage),
            (draft(&[1], &[2], &[1], [1, 1]), Exit::Refused),
            (draft(&[1], &[2], &[2], [1, 1]), Exit::Refused),
            (
                draft(&[1, 2, 3, 4, 5], &[6, 7], &[8, 9], [1, 1]),
                Exit::Refused,
            ),
        ];
        for (number, (draft, exit)) in cases.into_iter().enumerate() {
            assert_eq!(
                draft.unsigned().expect_err("refused").exit,
                exit,
                "case {number}"
            );
        }
        draft(&[1], &[1], &[2], [1, 1])
            .unsigned()
            .expect("dev: one key, two roles");
    }
}
