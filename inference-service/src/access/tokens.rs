//! The clients' tokens: a file with a table for each, of which only the hash is
//! kept. A token is 32 random bytes, so that a plain SHA-256 of it cannot be
//! guessed back, and needs no salt. Checks in a time that tells nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flatframe_shared::renewal::{FileError, NamedFile};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_rustls::rustls::crypto::ring;

use super::rules::Role;
use crate::vision::models::hex;

/// Most tokens of a file: each one is compared with every call's.
pub const MAX_TOKENS: usize = 256;
/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Random bytes of a token.
const SECRET_BYTES: usize = 32;
/// What a token begins with, so that people and scanners know one when they see
/// it.
const PREFIX: &str = "flatframe_";

/// A file of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// In the order in which they were made.
    #[serde(default)]
    pub token: Vec<TokenEntry>,
}

/// One token, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// Whose it is, for people and logs; unique.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the token, in hexadecimal.
    pub sha256: String,
    /// When it stops being good (RFC 3339); never if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A token as it is given to its owner; shown by nothing.
pub struct Secret(String);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Self, String> {
        let mut bytes = [0; SECRET_BYTES];
        let filled = ring::default_provider().secure_random.fill(&mut bytes);
        filled.map_err(|_| "the system gives no random bytes".to_owned())?;
        Ok(Self(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// For the one who is to have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the file keeps of it.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.0))
    }
}

/// Which token: one that was made anew under its name, or given another role,
/// is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenId {
    /// Whose it is.
    pub name: Arc<str>,
    /// What it allows.
    pub role: Role,
    sha256: [u8; 32],
}

/// A token that was read.
#[derive(Debug, Clone)]
pub struct Token {
    /// Which one it is.
    pub id: TokenId,
    expires: Option<SystemTime>,
}

impl Token {
    /// Whether its time is over.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// All tokens, checked.
#[derive(Debug, Default)]
pub struct TokenSet(Vec<Token>);

impl TokenSet {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`], naming key, file and what is wrong.
    pub fn read(file: &NamedFile) -> Result<Self, FileError> {
        Self::check(&TokenFile::read(file)?).map_err(|why| file.wrong(why))
    }

    fn check(file: &TokenFile) -> Result<Self, String> {
        if file.token.len() > MAX_TOKENS {
            return Err(format!("has {} tokens: use at most {MAX_TOKENS}", file.token.len()));
        }
        let mut tokens: Vec<Token> = Vec::with_capacity(file.token.len());
        for entry in &file.token {
            let token = entry.check()?;
            if tokens.iter().any(|other| other.id.name == token.id.name) {
                return Err(format!("has two tokens with the name {:?}: give each a name of its own", token.id.name));
            }
            tokens.push(token);
        }
        Ok(Self(tokens))
    }

    /// The token that `shown` is. Looks at all of them however early one fits.
    pub fn find(&self, shown: &str) -> Option<&Token> {
        let hash: [u8; 32] = Sha256::digest(shown).into();
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.id.sha256.ct_eq(&hash)) {
                found = Some(token);
            }
        }
        found
    }

    /// Whether the token is among them and its time is not over.
    pub fn is_good(&self, id: &TokenId, now: SystemTime) -> bool {
        self.0.iter().any(|token| token.id == *id && !token.is_expired(now))
    }
}

impl TokenFile {
    /// Reads a file, without judging its tokens.
    ///
    /// # Errors
    /// When it cannot be read, or is no such file.
    pub fn read(file: &NamedFile) -> Result<Self, FileError> {
        use std::io::Read;
        let mut text = String::new();
        let read =
            std::fs::File::open(&file.path).and_then(|open| open.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
        read.map_err(|error| {
            file.wrong(format!("cannot be read ({error}): make one with inference-service tokens add NAME --role read"))
        })?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(file.wrong(format!("is larger than {MAX_FILE_BYTES} bytes: that is no file of tokens")));
        }
        toml::from_str(&text).map_err(|error| file.wrong(format!("is no file of tokens: {}", error.message())))
    }

    /// Adds a token and gives it.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn add(&mut self, name: &str, role: Role, valid_for: Option<Duration>) -> Result<Secret, String> {
        let secret = Secret::new()?;
        let expires = match valid_for {
            None => None,
            Some(valid_for) => {
                let end = SystemTime::now().checked_add(valid_for).filter(|_| valid_for < LONGEST);
                let end = end.ok_or("--expires is too far away: use at most 100years, or leave it out for never")?;
                Some(humantime::format_rfc3339_seconds(end).to_string())
            }
        };
        self.token.push(TokenEntry { name: name.to_owned(), role, sha256: secret.sha256(), expires });
        TokenSet::check(self)?;
        Ok(secret)
    }

    /// Writes the file for its owner alone, in one step: a service that reads it
    /// meanwhile sees the old one or the new one.
    ///
    /// # Errors
    /// As the system's own.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        crate::secret_file::write(path, format!("{HEAD}{text}").as_bytes())
    }
}

/// Farther ends are mistakes.
const LONGEST: Duration = Duration::from_secs(101 * 366 * 24 * 3600);
/// What stands at the beginning of the file.
const HEAD: &str = "# Tokens of clients: inference-service tokens add | list | remove. Only hashes are kept here.\n\n";

impl TokenEntry {
    fn check(&self) -> Result<Token, String> {
        let name = &self.name;
        let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_good) {
            let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
            return Err(format!("token name {shown:?}: use 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, '.', '_', '-'"));
        }
        let sha256 = bytes_of(&self.sha256)
            .ok_or_else(|| format!("token {name}: sha256 is not 64 hexadecimal digits: make the token anew"))?;
        let expires = self.expires.as_ref().map(|text| {
            humantime::parse_rfc3339(text)
                .map_err(|_| format!("token {name}: expires = {text:?}: use a time like \"2027-01-31T00:00:00Z\""))
        });
        let id = TokenId { name: name.as_str().into(), role: self.role, sha256 };
        Ok(Token { id, expires: expires.transpose()? })
    }
}

fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_itself_alone() {
        let mut file = TokenFile::default();
        let hall = file.add("hall", Role::Read, None).expect("added");
        let desk = file.add("desk", Role::Admin, Some(Duration::from_secs(60))).expect("added");
        let set = TokenSet::check(&file).expect("good");
        let found = |secret: &Secret| set.find(secret.reveal()).map(|token| (&*token.id.name, token.id.role));
        assert_eq!(found(&hall), Some(("hall", Role::Read)));
        assert_eq!(found(&desk), Some(("desk", Role::Admin)));
        for other in ["", "flatframe_", &hall.sha256(), &hall.reveal()[1..], &format!("{} ", hall.reveal())] {
            assert!(set.find(other).is_none(), "{other:?}");
        }
        assert!(Secret::new().expect("random").reveal() != Secret::new().expect("random").reveal());
        assert_eq!(hall.reveal().len(), PREFIX.len() + 64);
    }

    #[test]
    fn a_token_ends() {
        let mut file = TokenFile::default();
        let desk = file.add("desk", Role::Admin, Some(Duration::from_secs(3600))).expect("added");
        let set = TokenSet::check(&file).expect("good");
        let (token, now) = (set.find(desk.reveal()).expect("is there"), SystemTime::now());
        let end = now + Duration::from_secs(3601);
        assert!(!token.is_expired(now) && token.is_expired(end));
        assert!(set.is_good(&token.id, now) && !set.is_good(&token.id, end));
        assert!(file.add("far", Role::Read, Some(Duration::MAX)).is_err());
    }

    #[test]
    fn a_token_that_changes_is_another_one() {
        let mut file = TokenFile::default();
        let secret = file.add("desk", Role::Admin, None).expect("added");
        let before = TokenSet::check(&file).expect("good").find(secret.reveal()).expect("is there").id.clone();
        let is_good = |file: &TokenFile| TokenSet::check(file).expect("good").is_good(&before, SystemTime::now());
        let mut longer = file.clone();
        longer.token[0].expires = Some("2999-01-01T00:00:00Z".to_owned());
        assert!(is_good(&file) && is_good(&longer));
        let mut lowered = file.clone();
        lowered.token[0].role = Role::Read;
        let mut made_anew = TokenFile::default();
        made_anew.add("desk", Role::Admin, None).expect("added");
        for other in [lowered, made_anew, TokenFile::default()] {
            assert!(!is_good(&other), "{other:?}");
        }
    }

    #[test]
    fn the_file_holds_no_token_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let named = NamedFile::new("auth.tokens", folder.path().join("tokens.toml"));
        let mut file = TokenFile::default();
        let secret = file.add("hall", Role::Snapshot, None).expect("added");
        file.write(&named.path).expect("written");
        let text = std::fs::read_to_string(&named.path).expect("read");
        assert!(!text.contains(secret.reveal()) && !text.contains(&secret.reveal()[PREFIX.len()..]));
        let mode = std::fs::metadata(&named.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(TokenFile::read(&named).expect("read"), file);
        assert!(TokenSet::read(&named).expect("good").find(secret.reveal()).is_some());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let named = NamedFile::new("auth.tokens", folder.path().join("tokens.toml"));
        let hash = "0".repeat(64);
        let entry = |name: &str, role: &str, hash: &str, rest: &str| {
            format!("[[token]]\nname = '{name}'\nrole = '{role}'\nsha256 = '{hash}'\n{rest}\n")
        };
        for (text, word) in [
            (entry("a b", "read", &hash, ""), "a b"),
            (entry("a", "root", &hash, ""), "root"),
            (entry("a", "read", "12", ""), "64 hexadecimal"),
            (entry("a", "read", &hash, "expires = 'soon'"), "soon"),
            (entry("a", "read", &hash, "more = 1"), "more"),
            (entry("a", "read", &hash, "") + &entry("a", "read", &hash, ""), "two tokens"),
            ("nonsense".to_owned(), "no file of tokens"),
        ] {
            std::fs::write(&named.path, text).expect("written");
            let error = TokenSet::read(&named).expect_err(word).to_string();
            assert!(error.contains(word) && error.contains("auth.tokens"), "{error}");
        }
        let missing = NamedFile::new("auth.tokens", "/no/such/file");
        let error = TokenSet::read(&missing).expect_err("missing").to_string();
        assert!(error.contains("/no/such/file") && error.contains("tokens add"), "{error}");
    }
}
