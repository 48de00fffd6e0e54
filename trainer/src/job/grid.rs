//! Where each process of a job stands: copies of the model × stages of layers × shares of each layer.

use std::ops::Range;

use store::spec::Resources;

use crate::models::Depth;

/// How many processes there are in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Copies of the model, each with rows of its own.
    pub copies: usize,
    /// Stages of a copy, each with layers of its own.
    pub stages: usize,
    /// Processes of a stage, which share its layers' weights.
    pub shares: usize,
}

/// A process's place, each counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which copy.
    pub copy: usize,
    /// Which stage.
    pub stage: usize,
    /// Which share.
    pub share: usize,
}

impl Grid {
    /// What a specification asks for; it was validated.
    pub fn of(resources: &Resources) -> Self {
        let (stages, shares) = (resources.pipeline_stages as usize, resources.tensor_parallel as usize);
        Grid { copies: resources.devices as usize / (stages * shares), stages, shares }
    }

    /// All processes.
    pub fn size(self) -> usize {
        self.copies * self.model()
    }

    /// Processes of one copy of the model: those of the first copy have the lowest ranks.
    pub fn model(self) -> usize {
        self.stages * self.shares
    }

    /// Where a rank stands. Those that share a layer, and exchange the most, are neighbours.
    pub fn place(self, rank: usize) -> Place {
        let (copy, within) = (rank / self.model(), rank % self.model());
        Place { copy, stage: within / self.shares, share: within % self.shares }
    }

    /// Who stands there.
    pub fn rank(self, place: Place) -> usize {
        (place.copy * self.stages + place.stage) * self.shares + place.share
    }

    /// The stage that has a parameter of this depth.
    pub fn stage_of(self, depth: Depth, layers: usize) -> usize {
        match depth {
            Depth::Embeddings => 0,
            Depth::Layer(layer) => {
                (0..self.stages).find(|&stage| self.layers(stage, layers).contains(&layer)).unwrap_or(0)
            }
            Depth::Head => self.stages - 1,
        }
    }

    /// The layers of a stage, of `layers`: as even as can be, the earlier ones have more.
    pub fn layers(self, stage: usize, layers: usize) -> Range<usize> {
        let (each, more) = (layers / self.stages, layers % self.stages);
        let first = |stage: usize| stage * each + stage.min(more);
        first(stage)..first(stage + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_one_rank() {
        let grid = Grid { copies: 2, stages: 3, shares: 2 };
        for rank in 0..grid.size() {
            assert_eq!(grid.rank(grid.place(rank)), rank);
        }
        assert_eq!(grid.place(1), Place { copy: 0, stage: 0, share: 1 });
        assert_eq!(grid.place(2), Place { copy: 0, stage: 1, share: 0 });
        assert_eq!(grid.place(6), Place { copy: 1, stage: 0, share: 0 });
    }

    #[test]
    fn stages_have_all_layers_once_and_none_is_empty() {
        for (stages, layers) in [(1, 3), (2, 3), (3, 3), (4, 26)] {
            let grid = Grid { copies: 1, stages, shares: 1 };
            let parts: Vec<Range<usize>> = (0..stages).map(|stage| grid.layers(stage, layers)).collect();
            assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..layers).collect::<Vec<_>>());
            assert!(parts.iter().all(|part| part.len() >= layers / stages));
        }
    }
}
