//! The machines of a job: which of its processes run where.
//!
//! Whoever starts the first process on each machine says so by the environment; without it there is one machine.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};

/// Processes of each machine in the order of their ranks, such as `2,1`.
const MACHINES: &str = "LUTHIER_MACHINES";
/// This machine's address, at which the others reach it.
const ADDRESS: &str = "LUTHIER_ADDRESS";

/// How a job's processes are spread over machines, as one of them sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines {
    sizes: Vec<usize>,
    own: usize,
    /// Where processes of this machine listen.
    pub address: IpAddr,
}

impl Machines {
    /// All processes on this machine.
    pub fn one(size: usize) -> Self {
        Machines { sizes: vec![size], own: 0, address: Ipv4Addr::LOCALHOST.into() }
    }

    /// What the environment of process `rank` of `size` says.
    pub fn of_environment(rank: usize, size: usize) -> Result<Self> {
        match std::env::var(MACHINES) {
            Err(_) => Ok(Self::one(size)),
            Ok(sizes) => {
                let address =
                    std::env::var(ADDRESS).with_context(|| format!("{MACHINES} needs {ADDRESS}"))?;
                Self::parse(&sizes, &address, rank, size)
            }
        }
    }

    fn parse(sizes: &str, address: &str, rank: usize, size: usize) -> Result<Self> {
        let sizes: Vec<usize> = sizes
            .split(',')
            .map(|part| {
                part.trim()
                    .parse()
                    .with_context(|| format!("{MACHINES} is \"{sizes}\", not numbers with commas"))
            })
            .collect::<Result<_>>()?;
        ensure!(
            sizes.iter().sum::<usize>() == size && !sizes.contains(&0),
            "{MACHINES} is {sizes:?}, and the job has {size} processes"
        );
        let address = address.parse().with_context(|| format!("{ADDRESS} is \"{address}\", no address"))?;
        let mut machines = Machines { sizes, own: 0, address };
        while machines.first() + machines.here() <= rank {
            machines.own += 1;
            ensure!(machines.own < machines.sizes.len(), "there is no process {rank} of {size}");
        }
        Ok(machines)
    }

    /// Whether there are others.
    pub fn several(&self) -> bool {
        self.sizes.len() > 1
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// Which one this is, from 0.
    pub fn own(&self) -> usize {
        self.own
    }

    /// Processes on this machine.
    pub fn here(&self) -> usize {
        self.sizes[self.own]
    }

    /// The first process on this machine: it starts the others here and speaks for the machine.
    pub fn first(&self) -> usize {
        self.sizes[..self.own].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_finds_its_machine() {
        let seen = |rank| {
            let machines = Machines::parse("2,1,3", "10.0.0.7", rank, 6).unwrap();
            (machines.own(), machines.first(), machines.here())
        };
        assert_eq!([0, 1, 2, 3, 5].map(seen), [(0, 0, 2), (0, 0, 2), (1, 2, 1), (2, 3, 3), (2, 3, 3)]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (sizes, address, rank) in [
            ("2,2", "10.0.0.7", 0),
            ("3,0", "10.0.0.7", 0),
            ("x", "10.0.0.7", 0),
            ("2,1", "here", 0),
            ("2,1", "10.0.0.7", 3),
        ] {
            assert!(Machines::parse(sizes, address, rank, 3).is_err(), "{sizes} {address} {rank}");
        }
    }
}
