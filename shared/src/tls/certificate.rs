//! Whom a certificate names, and until when it is good. Judges nothing: rustls
//! has checked signature, time and use before names are looked at. What is not
//! understood names nobody.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::frame::CameraId;

/// A DNS name of a camera ends with this, after a dot.
pub const CAMERA_DOMAIN: &str = "camera.flatframe";
/// What follows the trust domain in a camera's SPIFFE id.
const SPIFFE_PATH: &str = "camera";
/// Most names of one certificate.
const MAX_NAMES: usize = 256;

/// What a peer's certificate says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The cameras that it may speak for; sorted.
    pub cameras: Arc<[CameraId]>,
}

impl PeerCertificate {
    /// Reads a certificate that was verified; `None` when it has more names than
    /// are looked at, or cannot be read.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let names = Fields::of(certificate)?.names()?;
        let mut cameras: Vec<CameraId> = names.into_iter().filter_map(camera_of).collect();
        cameras.sort();
        cameras.dedup();
        Some(Self { cameras: cameras.into() })
    }

    /// For people: the cameras, shortened.
    pub fn describe(&self) -> String {
        let shown: Vec<_> = self.cameras.iter().take(4).map(CameraId::as_str).collect();
        match (self.cameras.len(), shown.join(", ")) {
            (0, _) => "a certificate that names no camera".to_owned(),
            (count, shown) if count > 4 => format!("the certificate of {shown} and {} more", count - 4),
            (_, shown) => format!("the certificate of {shown}"),
        }
    }
}

/// When the first of `certificates` stops being good, in seconds since the Unix
/// epoch; `None` when that cannot be read.
pub(super) fn earliest_expiry(certificates: &[CertificateDer<'_>]) -> Option<i64> {
    let ends: Option<Vec<i64>> = certificates.iter().map(|one| Fields::of(one)?.not_after_unix_s()).collect();
    ends?.into_iter().min()
}

/// The camera that a name stands for: `spiffe://TRUST-DOMAIN/camera/ID`, or
/// `ID.camera.flatframe`.
fn camera_of(name: Name<'_>) -> Option<CameraId> {
    let id = match name {
        Name::Uri(uri) => {
            let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
            let (kind, id) = path.split_once('/')?;
            (!domain.is_empty() && kind == SPIFFE_PATH).then_some(id)?
        }
        Name::Dns(name) => name.strip_suffix(CAMERA_DOMAIN)?.strip_suffix('.')?,
    };
    CameraId::parse(id).ok()
}

/// A name of the kinds that can be a camera's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    Dns(&'a str),
    Uri(&'a str),
}

// Tags of DER (X.690) and of certificates (RFC 5280).
const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
/// subjectAltName, 2.5.29.17.
const ALT_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// The parts of a certificate that are read.
struct Fields<'a> {
    not_after: (u8, &'a [u8]),
    extensions: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn of(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let signed = Reader(certificate.as_ref()).expect(SEQUENCE)?;
        let mut fields = Reader(Reader(signed).expect(SEQUENCE)?);
        if fields.0.first() == Some(&VERSION) {
            fields.next()?;
        }
        // Serial number, algorithm, issuer.
        for _ in 0..3 {
            fields.next()?;
        }
        let mut validity = Reader(fields.expect(SEQUENCE)?);
        validity.next()?;
        let not_after = validity.next()?;
        let mut extensions = None;
        while let Some((tag, value)) = fields.next() {
            if tag == EXTENSIONS {
                extensions = Some(Reader(value).expect(SEQUENCE)?);
            }
        }
        Some(Self { not_after, extensions })
    }

    fn names(&self) -> Option<Vec<Name<'a>>> {
        let mut names = Vec::new();
        let mut extensions = Reader(self.extensions.unwrap_or_default());
        while let Some((_, extension)) = extensions.next() {
            let mut parts = Reader(extension);
            if parts.expect(OBJECT_ID)? != ALT_NAMES {
                continue;
            }
            // Whether it is critical changes nothing here.
            if parts.0.first() == Some(&BOOLEAN) {
                parts.next()?;
            }
            let mut alternatives = Reader(Reader(parts.expect(OCTETS)?).expect(SEQUENCE)?);
            while let Some((tag, value)) = alternatives.next() {
                if names.len() == MAX_NAMES {
                    return None;
                }
                let text = std::str::from_utf8(value).ok();
                match (tag, text) {
                    (DNS_NAME, Some(text)) => names.push(Name::Dns(text)),
                    (URI, Some(text)) => names.push(Name::Uri(text)),
                    _ => {}
                }
            }
        }
        Some(names)
    }

    /// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
    fn not_after_unix_s(&self) -> Option<i64> {
        let (tag, text) = self.not_after;
        let digits = text.strip_suffix(b"Z")?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = |part: &[u8]| part.iter().fold(0, |number, digit| 10 * number + i64::from(digit - b'0'));
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year = number(&digits[..2]);
                (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
            }
            (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
            _ => return None,
        };
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
        Some(((days_from_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
    }
}

/// Days from 1970-01-01, by the Gregorian calendar: years begin in March here,
/// so that the leap day is the last.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// Values of DER, one after the other; `None` at the end and where it is none.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // Two bytes of length are more than any certificate has.
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.is_empty() || bytes.len() > 3 {
                return None;
            }
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value, if it is of this kind.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn made(names: &[SanType], not_after: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("a name"))
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().expect("a name"))
    }

    #[test]
    fn cameras_are_named_by_spiffe_ids_and_by_dns_names() {
        let names = [
            uri("spiffe://home/camera/front-door"),
            dns("Yard_2.camera.flatframe"),
            dns("front-door.camera.flatframe"),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        let read = PeerCertificate::read(&made(&names, (2030, 1, 1))).expect("can be read");
        let cameras: Vec<_> = read.cameras.iter().map(CameraId::as_str).collect();
        assert_eq!(cameras, ["Yard_2", "front-door"]);
        assert_eq!(read.describe(), "the certificate of Yard_2, front-door");
    }

    #[test]
    fn other_names_are_no_cameras() {
        let names = [
            uri("spiffe:///camera/a"),
            uri("spiffe://home/camera/"),
            uri("spiffe://home/camera/a/b"),
            uri("spiffe://home/kamera/a"),
            uri("spiffe://home/x/camera/a"),
            uri("https://home/camera/a"),
            dns("camera.flatframe"),
            dns("xcamera.flatframe"),
            dns("a.camera.flatframe.example"),
            dns("*.camera.flatframe"),
        ];
        let read = PeerCertificate::read(&made(&names, (2030, 1, 1))).expect("can be read");
        assert!(read.cameras.is_empty(), "{:?}", read.cameras);
    }

    #[test]
    fn more_names_than_any_box_has_cameras_are_not_read() {
        let names: Vec<_> = (0..=MAX_NAMES).map(|camera| dns(&format!("c{camera}.camera.flatframe"))).collect();
        assert_eq!(PeerCertificate::read(&made(&names, (2030, 1, 1))), None);
        assert!(PeerCertificate::read(&made(&names[1..], (2030, 1, 1))).is_some());
    }

    #[test]
    fn the_end_of_its_time_is_read_from_both_forms() {
        // UTCTime up to 2049, GeneralizedTime after.
        for (date, unix_s) in [
            ((1999, 12, 31), 946_598_400),
            ((2024, 2, 29), 1_709_164_800),
            ((2030, 1, 1), 1_893_456_000),
            ((2049, 12, 31), 2_524_521_600),
            ((2050, 3, 1), 2_529_705_600),
            ((2100, 3, 1), 4_107_542_400),
        ] {
            assert_eq!(earliest_expiry(&[made(&[], date)]), Some(unix_s), "{date:?}");
        }
        let two = [made(&[], (2040, 1, 1)), made(&[], (2030, 1, 1))];
        assert_eq!(earliest_expiry(&two), Some(1_893_456_000));
    }

    #[test]
    fn damage_names_nobody_and_ends() {
        let whole = made(&[dns("a.camera.flatframe")], (2030, 1, 1));
        for cut in 0..whole.len() {
            let _ = PeerCertificate::read(&CertificateDer::from(&whole[..cut]));
        }
        for at in 0..whole.len() {
            for byte in [0, 0x30, 0x7f, 0x80, 0x84, 0xff] {
                let mut damaged = whole.to_vec();
                damaged[at] = byte;
                let damaged = CertificateDer::from(damaged);
                let _ = (PeerCertificate::read(&damaged), earliest_expiry(&[damaged]));
            }
        }
        assert_eq!(PeerCertificate::read(&CertificateDer::from(&[][..])), None);
    }
}
