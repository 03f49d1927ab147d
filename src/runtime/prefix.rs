//! Which prompts of a call can share the work of reading a common beginning. Pure.

/// Prompts that begin alike, read as one trunk with members that end on it or branch off it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Index of the prompt that is read from its beginning to its end.
    pub trunk: usize,
    /// Everyone who takes something from the trunk, itself included; in the order of the prompts.
    pub members: Vec<Member>,
}

/// A prompt of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Index of the prompt.
    pub prompt: usize,
    /// Tokens it has in common with the trunk, from the first on. All of them: its answer can be read off the trunk.
    /// Otherwise it goes its own way from here, on a copy of the cache.
    pub shared: usize,
}

/// A prompt that shares no more than this part of itself with the trunk starts a group of its own: copying the cache
/// and a short read of its own would cost about what is saved.
const MIN_SHARED: f64 = 0.5;

/// Cuts `prompts` into groups; every prompt is in exactly one. The longest prompt not yet in a group is the next trunk.
pub(super) fn groups(prompts: &[Vec<u32>]) -> Vec<Group> {
    let mut by_length: Vec<usize> = (0..prompts.len()).collect();
    // Stable: of two equally long prompts the first is the trunk.
    by_length.sort_by_key(|&index| std::cmp::Reverse(prompts[index].len()));
    let mut groups: Vec<Group> = Vec::new();
    for prompt in by_length {
        let best = groups
            .iter()
            .enumerate()
            .map(|(group, g)| (group, common(&prompts[g.trunk], &prompts[prompt])))
            .max_by_key(|&(group, shared)| (shared, std::cmp::Reverse(group)));
        match best {
            Some((group, shared)) if shared as f64 > MIN_SHARED * prompts[prompt].len() as f64 => {
                groups[group].members.push(Member { prompt, shared });
            }
            _ => groups.push(Group { trunk: prompt, members: vec![Member { prompt, shared: prompts[prompt].len() }] }),
        }
    }
    for group in &mut groups {
        group.members.sort_by_key(|member| member.prompt);
    }
    groups.sort_by_key(|group| group.members[0].prompt);
    groups
}

/// Every prompt by itself, whatever it has in common with others.
pub(super) fn alone(prompts: &[Vec<u32>]) -> Vec<Group> {
    let group = |(prompt, ids): (usize, &Vec<u32>)| Group { trunk: prompt, members: vec![Member { prompt, shared: ids.len() }] };
    prompts.iter().enumerate().map(group).collect()
}

/// Length of the longest common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_is_one_group_on_its_longest_prompt() {
        let prompts = vec![vec![1, 2], vec![1, 2, 3], vec![1, 2, 3, 4, 5]];
        let members = vec![Member { prompt: 0, shared: 2 }, Member { prompt: 1, shared: 3 }, Member { prompt: 2, shared: 5 }];
        assert_eq!(groups(&prompts), [Group { trunk: 2, members }]);
    }

    #[test]
    fn a_branch_shares_what_it_has_in_common() {
        let prompts = vec![vec![1, 2, 3, 9], vec![1, 2, 3, 4, 5]];
        let members = vec![Member { prompt: 0, shared: 3 }, Member { prompt: 1, shared: 5 }];
        assert_eq!(groups(&prompts), [Group { trunk: 1, members }]);
    }

    #[test]
    fn strangers_that_only_share_their_first_token_stay_apart() {
        let prompts = vec![vec![1, 2, 3, 4], vec![1, 7, 8, 9, 6]];
        let alone = |prompt: usize, shared| Group { trunk: prompt, members: vec![Member { prompt, shared }] };
        assert_eq!(groups(&prompts), [alone(0, 4), alone(1, 5)]);
    }

    #[test]
    fn equal_prompts_are_read_once() {
        let prompts = vec![vec![4, 4], vec![4, 4]];
        let members = vec![Member { prompt: 0, shared: 2 }, Member { prompt: 1, shared: 2 }];
        assert_eq!(groups(&prompts), [Group { trunk: 0, members }]);
    }

    proptest! {
        #[test]
        fn every_prompt_is_in_one_group_and_shares_what_is_said(
            prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..12), 0..12)
        ) {
            let groups = groups(&prompts);
            let mut seen: Vec<usize> = groups.iter().flat_map(|g| g.members.iter().map(|m| m.prompt)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..prompts.len()).collect::<Vec<_>>());
            for group in &groups {
                let trunk = &prompts[group.trunk];
                for member in &group.members {
                    let prompt = &prompts[member.prompt];
                    prop_assert_eq!(&trunk[..member.shared], &prompt[..member.shared]);
                    prop_assert!(member.shared == prompt.len() || trunk.get(member.shared) != prompt.get(member.shared));
                }
            }
        }
    }
}
