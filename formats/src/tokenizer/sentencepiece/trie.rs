//! Which of many texts a text begins with.

use std::collections::VecDeque;

/// No key ends here.
const NONE: u32 = u32::MAX;

/// Keys with their numbers, as a tree of bytes.
///
/// Nodes are in the order of breadth: the k-th edge leads to node k + 1.
pub(super) struct Trie {
    nodes: Vec<Node>,
    labels: Vec<u8>,
}

struct Node {
    edges: usize,
    count: usize,
    number: u32,
}

impl Trie {
    /// Makes the tree; of several keys that are the same the first one's number counts.
    pub(super) fn new<'a>(keys: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut keys: Vec<(&[u8], u32)> =
            keys.into_iter().map(|(key, number)| (key.as_bytes(), number)).collect();
        keys.sort();
        let mut trie = Self { nodes: Vec::new(), labels: Vec::new() };
        let mut waiting = VecDeque::from([(0, keys.len(), 0)]);
        while let Some((mut from, to, depth)) = waiting.pop_front() {
            let mut number = NONE;
            while from < to && keys[from].0.len() == depth {
                number = number.min(keys[from].1);
                from += 1;
            }
            let edges = trie.labels.len();
            while from < to {
                let label = keys[from].0[depth];
                let end = from + keys[from..to].partition_point(|(key, _)| key[depth] == label);
                trie.labels.push(label);
                waiting.push_back((from, end, depth + 1));
                from = end;
            }
            trie.nodes.push(Node { edges, count: trie.labels.len() - edges, number });
        }
        trie
    }

    /// The keys that the text begins with, the shortest first: their length in bytes and their number.
    pub(super) fn prefixes<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = &self.nodes[0];
        let steps = text.bytes().enumerate().map_while(move |(at, byte)| {
            let labels = &self.labels[node.edges..node.edges + node.count];
            let edge = node.edges + labels.binary_search(&byte).ok()?;
            node = &self.nodes[edge + 1];
            Some((at + 1, node.number))
        });
        steps.filter(|(_, number)| *number != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_begin_a_text_are_found_shortest_first() {
        let trie = Trie::new([("ab", 1), ("a", 2), ("abcé", 3), ("b", 4), ("a", 7)]);
        let found = |text| trie.prefixes(text).collect::<Vec<_>>();
        assert_eq!(found("abcéd"), [(1, 2), (2, 1), (5, 3)]);
        assert_eq!((found("bb"), found("c"), found("")), (vec![(1, 4)], vec![], vec![]));
        assert_eq!(Trie::new([]).prefixes("a").count(), 0);
    }
}
