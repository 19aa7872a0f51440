//! Settings that are valid and may not be meant: the server warns of them at start, and doctor lists them.

use super::Config;

/// Something that is allowed, and may not be meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Risk {
    /// What it concerns: `listener`, or `pass` of an inference server.
    pub about: &'static str,
    /// What can happen, and what to do where it is not meant.
    pub text: String,
    /// Whether hardly any operator means it.
    pub grave: bool,
}

impl Config {
    /// The risks of this configuration.
    #[must_use]
    pub fn risks(&self) -> Vec<Risk> {
        let (auth, name) = (&self.auth, self.public_name());
        let proxied = !auth.trusted_proxies.is_empty();
        let is_exposed = self.exposed().next().is_some();
        let forced = auth.public_reads == Some(true);
        let also = if forced {
            ", and reads need no key"
        } else {
            ""
        };
        let exposed = self.exposed().map(|listener| Risk {
            about: "listener",
            text: format!("{listener} can be reached from other machines: keys go over the network unencrypted{also}; listen on 127.0.0.1 or a Unix socket behind a TLS proxy"),
            grave: forced,
        });
        let others = [
            (proxied && forced).then(|| "auth.public_reads is true behind a proxy: everybody who reaches the proxy reads every wallet's figures without a key; remove it or set it to false if that is not meant".to_owned()),
            (proxied && auth.hosts.is_empty()).then(|| "auth.hosts is empty: a proxy that passes its own name on as Host is answered 421; set it to what clients call the proxy".to_owned()),
            (auth.public_name.is_empty() && (proxied || is_exposed)).then(|| format!("auth.public_name is empty: a wallet login signs in to {name}, a name that many servers share; set it to the name that people know the server by")),
        ];
        let others = others.into_iter().flatten().map(|text| Risk {
            about: "listener",
            text,
            grave: false,
        });
        let passing = self.inference.iter().filter(|node| !node.pass.is_empty());
        let passing = passing.map(|node| Risk {
            about: "pass",
            text: format!("inference server {} gets {:?} of requests unchecked, whatever they do there; remove from its pass what clients do not need", node.name, node.pass),
            grave: false,
        });
        exposed.chain(others).chain(passing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_that_may_not_be_meant_is_a_risk() {
        let risks = |text: &str| {
            let risks = Config::read(text, []).unwrap().risks();
            risks
                .iter()
                .map(|risk| risk.text.clone())
                .collect::<Vec<_>>()
                .join("\n")
        };
        for quiet in [
            "",
            "auth.public_reads = true",
            "listen = [\"127.0.0.1:1\", \"[::1]:1\", \"unix:/run/edge.sock\"]",
            "[[inference]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"",
            "auth = { trusted_proxies = [\"unix\"], hosts = [\"edge.example\"], public_name = \"edge.example\" }",
        ] {
            assert_eq!(risks(quiet), "", "{quiet}");
        }
        for (text, part) in [
            (
                "listen = [\"127.0.0.1:1\", \"0.0.0.0:2\"]",
                "0.0.0.0:2 can be reached",
            ),
            (
                "listen = \"10.0.0.1:1\"\nauth.public_reads = true",
                "reads need no key",
            ),
            (
                "auth = { public_reads = true, trusted_proxies = [\"unix\"] }",
                "public_reads is true behind",
            ),
            ("auth.trusted_proxies = [\"unix\"]", "auth.hosts is empty"),
            (
                "[[inference]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\npass = [\"*\"]",
                "server a gets [\"*\"]",
            ),
            (
                "auth.trusted_proxies = [\"unix\"]",
                "signs in to 127.0.0.1:8000",
            ),
        ] {
            assert!(risks(text).contains(part), "{text}: {}", risks(text));
        }
    }
}
