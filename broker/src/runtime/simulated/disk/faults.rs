//! Faults: errors that the disk reports, and damage that it does not.

use super::Operation;

/// Something that goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A write fails; some of it may have been written.
    WriteError,
    /// A read fails; the next one may succeed.
    ReadError,
    /// A flush fails. What a file's covered is not written by a later one either.
    FlushError,
    /// The disk is full.
    NoSpace,
    /// A write goes to another place of the same file and reports success.
    MisdirectedWrite,
    /// A read returns what lies at another place of the same file.
    MisdirectedRead,
    /// A bit of what is stored changes.
    BitFlip,
    /// A sector of what is stored is garbage from now on.
    SectorRot,
    /// A page of what is stored cannot be read any more.
    LatentSectorError,
    /// An operation takes a second.
    Slow,
    /// An operation takes half a minute.
    Hung,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 11] = [
        Fault::WriteError,
        Fault::ReadError,
        Fault::FlushError,
        Fault::NoSpace,
        Fault::MisdirectedWrite,
        Fault::MisdirectedRead,
        Fault::BitFlip,
        Fault::SectorRot,
        Fault::LatentSectorError,
        Fault::Slow,
        Fault::Hung,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::WriteError => "write error",
            Fault::ReadError => "read error",
            Fault::FlushError => "flush error",
            Fault::NoSpace => "no space",
            Fault::MisdirectedWrite => "misdirected write",
            Fault::MisdirectedRead => "misdirected read",
            Fault::BitFlip => "bit flip",
            Fault::SectorRot => "sector rot",
            Fault::LatentSectorError => "latent sector error",
            Fault::Slow => "slow operation",
            Fault::Hung => "hung operation",
        }
    }

    /// Whether stored data is damaged by it, so that some of it may be lost.
    pub const fn damages(self) -> bool {
        matches!(
            self,
            Fault::MisdirectedWrite | Fault::BitFlip | Fault::SectorRot | Fault::LatentSectorError
        )
    }

    /// Whether it happens to what is stored, and not to an operation.
    pub(super) const fn is_rot(self) -> bool {
        matches!(
            self,
            Fault::BitFlip | Fault::SectorRot | Fault::LatentSectorError
        )
    }

    pub(super) const fn duration_us(self) -> Option<u64> {
        match self {
            Fault::Slow => Some(1_000_000),
            Fault::Hung => Some(30_000_000),
            _ => None,
        }
    }

    const fn can_happen_at(self, operation: Operation) -> bool {
        match self {
            Fault::WriteError | Fault::MisdirectedWrite => matches!(operation, Operation::Write),
            Fault::ReadError | Fault::MisdirectedRead => matches!(operation, Operation::Read),
            Fault::FlushError => matches!(operation, Operation::Flush),
            Fault::NoSpace => matches!(operation, Operation::Name),
            Fault::BitFlip
            | Fault::SectorRot
            | Fault::LatentSectorError
            | Fault::Slow
            | Fault::Hung => true,
        }
    }
}

/// How often each fault has happened, in the order of [`Fault::ALL`].
pub type FaultCounts = [u64; Fault::ALL.len()];

#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<(u64, Fault)>,
    counts: FaultCounts,
}

impl Faults {
    pub(super) fn plan(&mut self, from_io: u64, fault: Fault) {
        self.planned.push((from_io, fault));
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    pub(super) fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Whether one fault that damages what is stored has happened, and none is planned.
    pub(super) fn is_only_damage(&self) -> bool {
        let happened: u64 = Fault::ALL
            .iter()
            .zip(self.counts)
            .filter(|(fault, _)| fault.damages())
            .map(|(_, count)| count)
            .sum();
        happened <= 1 && !self.planned.iter().any(|(_, fault)| fault.damages())
    }

    /// The fault that an operation has.
    pub(super) fn take(
        &mut self,
        io: u64,
        operation: Operation,
        is_protected: bool,
    ) -> Option<Fault> {
        let is_due = |(from, fault): &(u64, Fault)| {
            let spares = match fault {
                Fault::MisdirectedWrite => is_protected,
                _ => false,
            };
            *from <= io && fault.can_happen_at(operation) && !spares
        };
        let at = self.planned.iter().position(is_due)?;
        let (_, fault) = self.planned.remove(at);
        let kind = Fault::ALL.iter().position(|known| *known == fault);
        self.counts[kind.expect("every fault is listed")] += 1;
        Some(fault)
    }
}
