//! The configuration file that setup writes: the example with its comments,
//! where nothing is set but the answers, so that every other key keeps the
//! default that suits the machine.

use crate::setup::answers::Answers;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The example with `answers`.
pub(super) fn filled(answers: &Answers) -> String {
    let (mut table, mut text) = ("", String::with_capacity(EXAMPLE.len() + 256));
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            table = line;
        }
        let key = line.split_once(" = ").map(|(key, _)| key);
        let answer = match (table, key) {
            ("[server]", Some("address")) => Some(&answers.server),
            ("[[camera]]", Some("source")) => Some(&answers.source),
            ("[[camera]]", Some("id")) => Some(&answers.id),
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
        let answers = Answers { server: "http://server:50051".into(), source: odd.into(), id: "door".into() };
        let text = filled(&answers);
        let config: Config = toml::from_str(&text).expect("it parses");
        let server = ServerConfig { address: answers.server };
        assert_eq!(config, Config { server, camera: vec![CameraConfig::new("door", odd)], ..Config::default() });

        let set: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).collect();
        assert_eq!(set.len(), 3, "{set:?}");
        assert_eq!(text.lines().count(), EXAMPLE.lines().count());
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
