//! The names under which an instance is known to the brokers.

/// The value of `joiner.instance_id` that means dynamic membership, whatever the host is called.
const DYNAMIC: &str = "dynamic";

/// What one instance calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// `group.instance.id`; empty: dynamic membership.
    pub(super) instance_id: String,
    pub(super) transactional_id: String,
}

/// Static names when `configured` or a stateful host name gives one, so that a restart takes its
/// partitions and its open transaction over at once; dynamic ones otherwise.
///
/// `host_name` is stateful when it ends in a dash and an ordinal, as Kubernetes' stateful sets name
/// their pods; `random` tells two dynamic instances apart.
pub(super) fn identity(
    group: &str,
    configured: &str,
    host_name: &str,
    instance: usize,
    random: u64,
) -> Identity {
    let name = match configured {
        DYNAMIC => None,
        "" => stateful(host_name),
        configured => Some(configured),
    };
    match name {
        Some(name) => Identity {
            instance_id: format!("{name}-{instance}"),
            transactional_id: format!("{group}-{name}-{instance}"),
        },
        None => Identity {
            instance_id: String::new(),
            transactional_id: format!("{group}-{random:016x}-{instance}"),
        },
    }
}

fn stateful(host_name: &str) -> Option<&str> {
    let (set, ordinal) = host_name.rsplit_once('-')?;
    let is_ordinal = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    (!set.is_empty() && is_ordinal).then_some(host_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_name_makes_every_instance_static() {
        let identity = identity("g", "east", "joiner-3", 1, 7);
        assert_eq!(identity.instance_id, "east-1");
        assert_eq!(identity.transactional_id, "g-east-1");
    }

    #[test]
    fn the_host_name_of_a_stateful_set_is_a_static_name() {
        assert_eq!(identity("g", "", "joiner-3", 0, 7).instance_id, "joiner-3-0");
    }

    #[test]
    fn dynamic_membership_can_be_asked_for_on_any_host() {
        assert_eq!(identity("g", "dynamic", "joiner-3", 0, 7).instance_id, "");
    }

    #[test]
    fn any_other_host_name_means_dynamic_membership_and_a_random_transactional_id() {
        for host_name in ["3f2a9c", "laptop-of-ada", "-1", "joiner-", ""] {
            let identity = identity("g", "", host_name, 2, 0xab);
            assert_eq!(identity.instance_id, "", "{host_name}");
            assert_eq!(identity.transactional_id, "g-00000000000000ab-2", "{host_name}");
        }
    }
}
