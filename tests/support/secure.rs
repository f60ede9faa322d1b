//! A Kafka that wants to know who is there: TLS, passwords or certificates, and rights.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rdkafka::config::ClientConfig;
use tempfile::TempDir;

use super::{Cluster, Kafka};

/// The listener that asks for a user and a password.
const PASSWORDS: usize = 0;
/// The one that asks for a certificate.
const CERTIFICATES: usize = 1;
/// Who has all rights without a certificate: whoever comes in by the front door without TLS.
const NOBODY: &str = "ANONYMOUS";

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Plain,
    Scram,
    Certificate,
}

/// One broker. Without TLS, which the tests use for their own part, everything is allowed; by TLS only
/// what was granted, and everything to [`SecureKafka::ADMIN`].
pub struct SecureKafka {
    cluster: Cluster,
    authority: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl SecureKafka {
    pub const ADMIN: &str = "admin";

    /// Starts a broker that knows `users`, each with the password of [`SecureKafka::password`].
    pub fn start(users: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("easq-secure-").tempdir().expect("a folder");
        let authority = authority("easq tests");
        fs::write(folder.path().join("ca.pem"), authority.1).expect("a file of our own");
        let authority = authority.0;
        let (chain, key) = issued(&authority, "broker");
        let of_broker = folder.path().join("broker.pem");
        fs::write(&of_broker, key + &chain).expect("a file of our own");
        let ca = folder.path().join("ca.pem");
        let properties = properties(users, &of_broker, &ca);
        let cluster = Cluster::start_with(1, 2, &properties);
        let kafka = Self { cluster, authority, folder };
        for user in users {
            let password = format!("SCRAM-SHA-512=[password={}]", Self::password(user));
            let entity = ["--entity-type", "users", "--entity-name", user];
            let change = [&["--alter", "--add-config", &password][..], &entity].concat();
            kafka.cluster.tool("kafka.admin.ConfigCommand", &change);
        }
        kafka
    }

    /// A secret, easily found where it must not be.
    pub fn password(user: &str) -> String {
        format!("hunter2-of-{user}")
    }

    /// The broker without TLS.
    pub fn kafka(&self) -> &Kafka {
        self.cluster.kafka()
    }

    /// Grants rights as a line of docs/security.md says, without its `kafka-acls`.
    pub fn grant(&self, words: &[&str]) {
        self.cluster.tool("org.apache.kafka.tools.AclCommand", words);
    }

    /// Where clients with this proof go.
    pub fn address(&self, proof: Proof) -> &str {
        self.cluster.door(if proof == Proof::Certificate { CERTIFICATES } else { PASSWORDS })
    }

    /// The certificate of who has issued the broker's.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate of someone who has not.
    pub fn other_authority_file(&self) -> PathBuf {
        let path = self.folder.path().join("other-ca.pem");
        fs::write(&path, authority("someone else").1).expect("a file of our own");
        path
    }

    /// A file that holds the user's password, as a container's secret is mounted.
    pub fn password_file(&self, user: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{user}.password"));
        fs::write(&path, Self::password(user) + "\n").expect("a file of our own");
        path
    }

    /// Certificate and key of a user, in PEM.
    pub fn certificate(&self, user: &str) -> (String, String) {
        issued(&self.authority, user)
    }

    /// librdkafka's properties for this user, but for the password, or for certificate and key.
    pub fn properties(&self, user: &str, proof: Proof) -> Vec<(&'static str, String)> {
        let authority = self.authority_file().to_str().expect("a path in UTF-8").to_owned();
        let mut properties = vec![("ssl.ca.location", authority)];
        match proof {
            Proof::Certificate => properties.push(("security.protocol", "SSL".into())),
            Proof::Plain | Proof::Scram => {
                let mechanism = if proof == Proof::Plain { "PLAIN" } else { "SCRAM-SHA-512" };
                properties.push(("security.protocol", "SASL_SSL".into()));
                properties.push(("sasl.mechanism", mechanism.into()));
                properties.push(("sasl.username", user.into()));
            }
        }
        properties
    }

    /// A client of the test's own, with a password.
    pub fn client(&self, user: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address(Proof::Scram)).set("broker.address.family", "v4");
        config.set("sasl.password", Self::password(user));
        for (name, value) in self.properties(user, Proof::Scram) {
            config.set(name, value);
        }
        config
    }
}

fn properties(users: &[&str], of_broker: &Path, ca: &Path) -> String {
    let known: Vec<_> =
        users.iter().map(|user| format!("user_{user}=\"{}\"", SecureKafka::password(user))).collect();
    format!(
        "listener.security.protocol.map=DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT,DOOR0:SASL_SSL,DOOR1:SSL\n\
         ssl.keystore.type=PEM\n\
         ssl.keystore.location={of_broker}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={ca}\n\
         ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/\n\
         listener.name.door1.ssl.client.auth=required\n\
         listener.name.door0.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
         listener.name.door0.plain.sasl.jaas.config={plain} required {known};\n\
         listener.name.door0.scram-sha-512.sasl.jaas.config={scram} required;\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:{NOBODY};User:{admin}\n",
        of_broker = of_broker.display(),
        ca = ca.display(),
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule",
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule",
        known = known.join(" "),
        admin = SecureKafka::ADMIN,
    )
}

/// Someone who issues certificates, and their own.
fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (Issuer::new(params, key), certificate.pem())
}

/// Certificate and key of `name`, who is on this machine.
fn issued(authority: &Issuer<'static, KeyPair>, name: &str) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}
