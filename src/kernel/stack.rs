//! Where a processor is: its call chain, by the back chain of stack frames.
//!
//! The Power ABIs keep a linked list through the stack: the word at the stack
//! pointer is the caller's frame, and a fixed place in that frame holds the
//! address to return to. The chain of a hung, half-initialised or overwritten
//! kernel can say anything, so every step is checked, the number of steps is
//! bounded, and a frame that only may be right says so.
//!
//! What the state of the processor means is [`super::activity`]'s.

use std::fmt;

use crate::arch::Word;
use crate::guest::{AddressRule, Cpu, View};

/// How many frames a trace has at most.
pub const FRAMES: usize = 64;

/// How far apart the frames of one stack lie at most, in bytes: the largest
/// kernel stack.
const STACK: u64 = 64 << 10;

/// How often a chain may go from one stack to another (task, interrupt,
/// soft interrupt, emergency).
const SWITCHES: usize = 4;

/// How much of a function's beginning is searched for its frame, in bytes.
const PROLOGUE: u64 = 4096;

/// Gives the function that an effective address lies in, and the offset.
pub type Symboliser<'a> = &'a dyn Fn(u64) -> Option<(String, u64)>;

/// Fills a buffer from an effective address that no rule maps, through the
/// guest's page tables; whether it could.
pub type Mapped<'a> = &'a dyn Fn(u64, &mut [u8]) -> bool;

/// Functions that nothing returns from: the kernel begins here.
const ENTRIES: &[&str] = &[
    "start_here",
    "start_here_common",
    "start_here_multiplatform",
    "start_secondary_prolog",
    "start_secondary_resume",
    "__secondary_start",
    "ret_from_fork",
    "ret_from_kernel_thread",
    "ret_from_kernel_user_thread",
    "kernel_thread",
];

/// What the kernel writes in front of the registers that it saves on an
/// exception, by version: "REGS" (in memory order, so swapped for little
/// endian), "regs", "regshere".
const MARKERS: [u64; 4] = [0x5245_4753, 0x5347_4552, 0x7265_6773, 0x7265_6773_6865_7265];

/// What a frame's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The instruction that the processor is at.
    At,
    /// Where a call returns to.
    Return,
    /// The instruction that an exception with this vector came at.
    Interrupted(u64),
}

/// One step of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// An effective address, or a real one in real mode.
    pub address: u64,
    /// The function and the offset in it, if known.
    pub name: Option<(String, u64)>,
    /// What the address is.
    pub kind: Kind,
    /// Whether it is certain that this frame belongs here.
    pub reliable: bool,
}

/// Why a trace ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first function of the chain, or a null back chain.
    Entry,
    /// A user's program.
    User,
    /// This stack pointer is not one.
    Broken(u64),
    /// The stack at this address can't be read.
    Unreadable(u64),
    /// There may be more.
    Limit,
}

/// A processor's call chain, innermost first; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The frames.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: End,
}

impl Frame {
    /// The function's name.
    #[must_use]
    pub fn function(&self) -> Option<&str> {
        self.name.as_ref().map(|(name, _)| name.as_str())
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Kind::Interrupted(vector) = self.kind {
            write!(f, "[interrupt {vector:#x}] ")?;
        }
        match &self.name {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}")?,
            None => write!(f, "{:#x}", self.address)?,
        }
        f.write_str(if self.reliable { "" } else { " (?)" })
    }
}

impl fmt::Display for Trace {
    /// One line: `inner+0x8 ← outer+0x16c ← start_kernel+0xa4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, frame) in self.frames.iter().enumerate() {
            write!(f, "{}{frame}", if number == 0 { "" } else { " ← " })?;
        }
        match self.end {
            End::Entry | End::User => Ok(()),
            End::Limit => f.write_str(" ← ..."),
            End::Broken(at) => write!(f, " ← (no frame at {at:#x})"),
            End::Unreadable(at) => write!(f, " ← (stack at {at:#x} can't be read)"),
        }
    }
}

/// What an exception saved.
struct Saved {
    nip: u64,
    lr: u64,
    stack: u64,
    user: bool,
    vector: u64,
}

/// Follows back chains in one kernel's memory.
#[derive(Clone, Copy)]
pub struct Walker<'a> {
    view: View<'a>,
    symbols: Symboliser<'a>,
    mapped: Option<Mapped<'a>>,
}

impl<'a> Walker<'a> {
    /// Follows chains in `view`, naming addresses by `symbols`.
    #[must_use]
    pub fn new(view: View<'a>, symbols: Symboliser<'a>) -> Self {
        Self { view, symbols, mapped: None }
    }

    /// The same, that can also read stacks in vmalloc space.
    #[must_use]
    pub fn with_mapped(self, mapped: Mapped<'a>) -> Self {
        Self { mapped: Some(mapped), ..self }
    }

    /// The call chain of `cpu`.
    ///
    /// The guest may run meanwhile: then the chain is a mixture of moments,
    /// and checked as strictly.
    #[must_use]
    pub fn trace(&self, cpu: &Cpu) -> Trace {
        let mut frames = vec![Frame {
            address: cpu.nip,
            name: self.name(cpu.nip),
            kind: Kind::At,
            reliable: true,
        }];
        let end = if cpu.user() {
            End::User
        } else {
            frames.extend(self.caller_in_lr(cpu.nip, cpu.lr, cpu.stack()));
            self.follow(cpu.stack(), &mut frames)
        };
        Trace { frames, end }
    }

    /// The instruction at `address`, where it is in the kernel's linear map
    /// or a real address.
    #[must_use]
    pub fn instruction(&self, address: u64) -> Option<u32> {
        let mut raw = [0; 4];
        self.fill(address, &mut raw)?;
        crate::arch::Bytes::new(&raw, self.view.arch()).u32(0)
    }

    /// Follow the chain from the frame at `stack` on.
    fn follow(&self, mut stack: u64, frames: &mut Vec<Frame>) -> End {
        if let Some(end) = self.no_frame(stack) {
            return end;
        }
        let mut switches = 0;
        let mut reliable = true;
        while frames.len() < FRAMES {
            let Some(caller) = self.word(stack) else { return End::Unreadable(stack) };
            let saved = self.exception(stack, caller);
            let next = if let Some(saved) = &saved {
                frames.push(Frame {
                    address: saved.nip,
                    name: self.name(saved.nip),
                    kind: Kind::Interrupted(saved.vector),
                    reliable,
                });
                if saved.user {
                    return End::User;
                }
                saved.stack
            } else if caller == 0 {
                return End::Entry;
            } else {
                caller
            };
            if let Some(end) = self.no_frame(next) {
                return end;
            }
            // In real mode the first of them may be a real address.
            let place = |address| self.view.rule().real(address).unwrap_or(address);
            if place(next).checked_sub(place(stack)).is_none_or(|size| size == 0 || size > STACK) {
                // Onto another stack, or astray: the number of such steps is
                // what ends a loop.
                switches += 1;
                if switches > SWITCHES {
                    return End::Broken(next);
                }
                reliable &= frames.last().is_some_and(is_switch);
            }
            stack = next;
            if let Some(saved) = saved {
                // As at the beginning: this is the stack pointer of who was
                // interrupted.
                frames.extend(self.caller_in_lr(saved.nip, saved.lr, saved.stack));
                continue;
            }
            let Some(address) = self.word(stack.wrapping_add(self.save_slot())) else {
                return End::Unreadable(stack);
            };
            let Some(frame) = self.returned(address) else {
                return if self.word(stack) == Some(0) { End::Entry } else { End::Broken(stack) };
            };
            let entry = is_entry(&frame);
            frames.push(Frame { reliable: frame.reliable && reliable, ..frame });
            if entry {
                return End::Entry;
            }
        }
        End::Limit
    }

    /// The caller of the function that `nip` is in, where only the link
    /// register knows it: in a leaf function, or before a frame is made.
    fn caller_in_lr(&self, nip: u64, lr: u64, stack: u64) -> Option<Frame> {
        let (function, offset) = self.name(nip)?;
        let frame = self.returned(lr)?;
        // After a call of its own, a function finds its own address there.
        if frame.function()? == function {
            return None;
        }
        let saved =
            self.word(stack).and_then(|caller| self.word(caller.wrapping_add(self.save_slot())));
        if saved == Some(lr) {
            return None;
        }
        if self.makes_frame(nip, offset)? {
            // Undone already, or the register is stale: only a real call
            // site is worth showing.
            return frame.reliable.then_some(Frame { reliable: false, ..frame });
        }
        Some(frame)
    }

    /// Whether a function makes its stack frame before the instruction at
    /// `nip`, `offset` bytes into it.
    fn makes_frame(&self, nip: u64, offset: u64) -> Option<bool> {
        let start = nip.checked_sub(offset)?;
        let mut code = vec![0; usize::try_from(offset.min(PROLOGUE) & !3).ok()?];
        self.fill(start, &mut code)?;
        let code = crate::arch::Bytes::new(&code, self.view.arch());
        Some((0..code.data().len()).step_by(4).filter_map(|at| code.u32(at)).any(|instruction| {
            match self.view.arch().word {
                // stdu r1,D(r1); stdux r1,r1,rB
                Word::W64 => {
                    instruction & 0xffff_0003 == 0xf821_0001
                        || instruction & 0xffff_07ff == 0x7c21_016a
                }
                // stwu r1,D(r1); stwux r1,r1,rB
                Word::W32 => {
                    instruction & 0xffff_0000 == 0x9421_0000
                        || instruction & 0xffff_07ff == 0x7c21_016e
                }
            }
        }))
    }

    /// A frame that returns to `address`, if that can be an instruction.
    fn returned(&self, address: u64) -> Option<Frame> {
        if address == 0 || !address.is_multiple_of(4) {
            return None;
        }
        // A call to a function that does not return is its caller's last
        // instruction: `address` itself would name the next function.
        let name = self.name(address - 1).map(|(name, offset)| (name, offset + 1));
        let called = self.instruction(address - 4).is_some_and(is_call);
        let frame = Frame { address, name, kind: Kind::Return, reliable: called };
        // What is entered first is not always entered by a call.
        let reliable = called || is_entry(&frame);
        Some(Frame { reliable, ..frame })
    }

    /// What an exception saved in the frame at `stack`, whose back chain is
    /// `caller`, if it is an exception's.
    fn exception(&self, stack: u64, caller: u64) -> Option<Saved> {
        let size = self.view.arch().word.bytes() as u64;
        // By ABI and version of the kernel.
        let places: &[u64] = match self.view.arch().word {
            Word::W64 => &[32, 96],
            Word::W32 => &[8],
        };
        let marked = |place: u64| {
            let marker = self.word(stack.wrapping_add(place));
            marker.is_some_and(|marker| MARKERS.contains(&marker))
        };
        let place = places.iter().find(|place| marked(**place))?;
        let registers = stack.wrapping_add(place + 2 * size);
        let register = |number: u64| self.word(registers.wrapping_add(number * size));
        let saved = Saved {
            nip: register(32)?,
            lr: register(36)?,
            stack: register(1)?,
            user: register(33)? & 0x4000 != 0,
            // The low bits are the kernel's own flags.
            vector: register(40)? & !0xf,
        };
        // A stack is full of old frames; a live one agrees with itself.
        let agrees = saved.stack == caller || (caller == 0 && saved.user);
        (agrees && saved.nip.is_multiple_of(4)).then_some(saved)
    }

    /// Where in its caller's frame a function saves where it returns to.
    fn save_slot(&self) -> u64 {
        match self.view.arch().word {
            Word::W64 => 16,
            Word::W32 => 4,
        }
    }

    /// Why there can be no frame at `stack`, if there can't.
    fn no_frame(&self, stack: u64) -> Option<End> {
        if stack == 0 || !stack.is_multiple_of(16) {
            return Some(End::Broken(stack));
        }
        self.word(stack).is_none().then_some(End::Unreadable(stack))
    }

    /// The function at an effective or, in real mode, a real address.
    fn name(&self, address: u64) -> Option<(String, u64)> {
        let (name, offset) =
            (self.symbols)(address).or_else(|| (self.symbols)(self.as_effective(address)?))?;
        // ELFv1 calls a function's code by its name with a dot in front.
        let bare = name.strip_prefix('.').filter(|bare| !bare.is_empty());
        Some((bare.map(str::to_owned).unwrap_or(name), offset))
    }

    /// The effective address of what may be a real one.
    fn as_effective(&self, address: u64) -> Option<u64> {
        let rule = self.view.rule();
        let is_real = match rule {
            AddressRule::Linear64 => address >> 60 == 0,
            AddressRule::Linear32 { page_offset, .. } => address < u64::from(page_offset),
        };
        is_real.then(|| rule.effective(address))
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut raw = [0; 8];
        let raw = raw.get_mut(..self.view.arch().word.bytes())?;
        self.fill(address, raw)?;
        crate::arch::Bytes::new(raw, self.view.arch()).word(0)
    }

    fn fill(&self, address: u64, buf: &mut [u8]) -> Option<()> {
        let direct = self.view.read(address, buf).is_ok()
            || self
                .as_effective(address)
                .is_some_and(|effective| self.view.read(effective, buf).is_ok());
        (direct || self.mapped.is_some_and(|mapped| mapped(address, buf))).then_some(())
    }
}

fn is_entry(frame: &Frame) -> bool {
    frame.function().is_some_and(|name| ENTRIES.contains(&name))
}

/// Whether a chain goes from one stack to another in this function.
fn is_switch(frame: &Frame) -> bool {
    matches!(frame.kind, Kind::Interrupted(_))
        || frame.function().is_some_and(|name| {
            ["irq", "IRQ", "softirq", "_on_stack", "_own_stack"]
                .iter()
                .any(|part| name.contains(part))
        })
}

/// Whether an instruction is a branch that sets the link register.
const fn is_call(instruction: u32) -> bool {
    match instruction >> 26 {
        // bc, b
        16 | 18 => instruction & 1 == 1,
        // bclr, bcctr, bctar
        19 => instruction & 1 == 1 && matches!((instruction >> 1) & 0x3ff, 16 | 528 | 560),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
