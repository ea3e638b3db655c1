//! The configuration file that setup writes: the example with its comments,
//! where nothing is set but the answers, so that every other key keeps the
//! default that suits the machine.

use crate::setup::answers::Answers;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The example with `answers`.
pub(super) fn filled(answers: &Answers) -> String {
    let [ca, cert, private] = &answers.tls;
    let given = |path: &String| Some(path.clone()).filter(|path| !path.is_empty());
    let (mut table, mut text) = ("", String::with_capacity(EXAMPLE.len() + 256));
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            table = line;
        }
        let key = line.split_once(" = ").map(|(key, _)| key);
        let answer = match (table, key) {
            ("[server]", Some("address")) => Some(answers.server.clone()),
            ("[server]", Some("ca")) => given(ca),
            ("[server]", Some("cert")) => given(cert),
            ("[server]", Some("key")) => given(private),
            ("[[camera]]", Some("source")) => Some(answers.source.clone()),
            ("[[camera]]", Some("id")) => Some(answers.id.clone()),
            _ => None,
        };
        match (key, answer) {
            (Some(key), Some(answer)) => text += &format!("{key} = {}", toml::Value::from(answer.as_str())),
            (Some(_), None) if !line.starts_with('#') => text += &format!("#{line}"),
            _ => text += line,
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CameraConfig, Config, ServerConfig};

    #[test]
    fn the_answers_are_set_and_nothing_else() {
        let odd = "file:/a \"b\"\\c";
        let answers = Answers {
            server: "http://server:50051".into(),
            tls: Default::default(),
            source: odd.into(),
            id: "door".into(),
        };
        let text = filled(&answers);
        let config: Config = toml::from_str(&text).expect("it parses");
        let server = ServerConfig::at(answers.server);
        assert_eq!(config, Config { server, camera: vec![CameraConfig::new("door", odd)], ..Config::default() });

        let set: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).collect();
        assert_eq!(set.len(), 3, "{set:?}");
        assert_eq!(text.lines().count(), EXAMPLE.lines().count());
        // With TLS.
        let tls = ["/ca.pem", "/c.pem", "/c.key"].map(String::from);
        let answers = Answers { server: "https://s:1".into(), tls, source: "pattern".into(), id: "door".into() };
        let with_tls: Config = toml::from_str(&filled(&answers)).expect("it parses");
        let [ca, cert, key] = answers.tls.clone().map(Into::into);
        assert_eq!(with_tls.server, ServerConfig { ca, cert, key, ..ServerConfig::at(answers.server) });
        // What is switched on by taking away its # works as well.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with([' ', '#']) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(toml::from_str::<Config>(&all).expect("it parses"), config);
    }
}
