//! How deep the programs' stacks are, as Linux 6.1 counts them: the frames of functions that call each other together,
//! each rounded up to 32 bytes (`check_max_stack_depth` in `kernel/bpf/verifier.c`). Read from the object: no kernel says it
//! of a program that it takes.

use super::lab::OBJECT;
use object::{
    Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind, SymbolSection,
};
use std::collections::{BTreeMap, BTreeSet};

/// A frame is counted in steps of this many bytes.
const STEP: u32 = 32;
/// Length of an instruction.
const WIDTH: usize = 8;

/// A function of the object.
#[derive(Debug, Default)]
struct Function {
    /// Bytes of stack that its instructions name.
    frame: u32,
    calls: BTreeSet<String>,
}

/// One instruction (`struct bpf_insn`).
struct Instruction {
    op: u8,
    dst: u8,
    src: u8,
    offset: i16,
    imm: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Self {
            op: bytes[0],
            dst: bytes[1] & 15,
            src: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            imm: i32::from_le_bytes(word(4)),
        }
    }
}

/// The frame pointer.
const FP: u8 = 10;
/// `mov` of a register, `add` of a number, a call, a load of 64 bits.
const MOV: u8 = 0xbf;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
const LOAD: u8 = 0x18;
/// Classes of instructions that load from memory, and store there.
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
/// `src` of a call within the object.
const LOCAL: u8 = 1;

/// The deepest way through each program: how many bytes, and by which functions with how large frames.
pub fn deepest() -> Vec<(String, u32, Vec<String>)> {
    let functions = functions();
    let programs = functions.keys().filter(|name| name.starts_with("cil_"));
    let way = |name: &String| {
        let (depth, way) = walk(&functions, name, &mut Vec::new());
        (name.clone(), depth, way)
    };
    programs.map(way).collect()
}

fn walk(functions: &BTreeMap<String, Function>, name: &str, above: &mut Vec<String>) -> (u32, Vec<String>) {
    let function = &functions[name];
    above.push(name.to_owned());
    let calls = function.calls.iter().filter(|callee| functions.contains_key(*callee));
    let below: Vec<&String> = calls.filter(|callee| !above.contains(callee)).collect();
    let deepest =
        below.into_iter().map(|callee| walk(functions, callee, above)).max_by_key(|(depth, _)| *depth);
    above.pop();
    let (depth, mut way) = deepest.unwrap_or_default();
    way.insert(0, format!("{name} {}", function.frame));
    (depth + function.frame.next_multiple_of(STEP).max(STEP), way)
}

fn functions() -> BTreeMap<String, Function> {
    let file = object::File::parse(OBJECT).expect("the object is ELF");
    let mut places: BTreeMap<(usize, u64), (u64, String)> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let SymbolSection::Section(section) = symbol.section() else { continue };
        let name = symbol.name().expect("a function has a name").to_owned();
        places.insert((section.0, symbol.address()), (symbol.size(), name));
    }
    let at = |section, address| places.get(&(section, address)).map(|(_, name)| name.clone());
    let text = file.section_by_name(".text").expect("functions of their own").index().0;
    let mut functions = BTreeMap::new();
    for ((index, address), (size, name)) in &places {
        let section = file.section_by_index(SectionIndex(*index)).expect("a symbol's section");
        let targets: BTreeMap<u64, RelocationTarget> =
            section.relocations().map(|(offset, relocation)| (offset, relocation.target())).collect();
        let code = section.data().expect("sections are not compressed");
        let mut function = Function::default();
        let mut pointers = [false; 16];
        for place in (*address..*address + *size).step_by(WIDTH) {
            let instruction = Instruction::read(&code[place as usize..]);
            let Instruction { op, dst, src, offset, imm } = instruction;
            let named = match op & 7 {
                LDX if src == FP => Some(i32::from(offset)),
                ST | STX if dst == FP => Some(i32::from(offset)),
                _ if op == ADD && pointers[usize::from(dst)] => Some(imm),
                _ => None,
            };
            function.frame = function.frame.max(named.map_or(0, |offset| offset.min(0).unsigned_abs()));
            pointers[usize::from(dst)] = op == MOV && src == FP;
            if op != CALL && op != LOAD || op == CALL && src != LOCAL {
                continue;
            }
            let callee = match targets.get(&place) {
                Some(RelocationTarget::Symbol(symbol)) => {
                    let symbol = file.symbol_by_index(*symbol).expect("a relocation's symbol");
                    match (symbol.kind(), op) {
                        (SymbolKind::Text, _) => symbol.name().ok().map(str::to_owned),
                        // A place in the section: of a call its instruction before, of a pointer its first byte.
                        (SymbolKind::Section, CALL) => at(text, (i64::from(imm) + 1) as u64 * WIDTH as u64),
                        (SymbolKind::Section, _) if symbol.section_index() == Some(SectionIndex(text)) => {
                            at(text, imm as u64)
                        }
                        _ => None,
                    }
                }
                _ if op == CALL => at(*index, (place as i64 + (i64::from(imm) + 1) * WIDTH as i64) as u64),
                _ => None,
            };
            function.calls.extend(callee);
        }
        functions.insert(name.clone(), function);
    }
    functions
}
