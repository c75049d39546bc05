//! A shared library in memory that has one symbol: C_GetFunctionList, at an address in this process.
//!
//! `cryptoki` 0.12 loads a module by its path, and asks it for an interface whenever dlsym(3) finds C_GetInterface. That
//! fails for a module whose C_GetInterface fails (Thales Luna 10.5, p11-kit issue 621), and it mixes two modules if the
//! symbol is in a dependency of the module (aws-kms-pkcs11, pull request 49). Claviger needs nothing that only an
//! interface has. It also makes a few calls itself, and p11-kit's client makes another instance of the module for each
//! C_GetFunctionList. So `cryptoki` gets a library without C_GetInterface, whose C_GetFunctionList returns the function
//! list that the module has returned before.
//!
//! The library has no code and no relocations: its symbol is absolute (SHN_ABS), and dlsym returns the value of an
//! absolute symbol unchanged (glibc since 2.28). `raw.rs` checks that. The format is ELF, as elf(5) describes it.

/// The bytes of the library; none on a platform for which it was not tried.
pub(super) fn library(name: &str, address: usize) -> Option<Vec<u8>> {
    const EM_X86_64: u16 = 62;
    const EM_AARCH64: u16 = 183;
    let machine = match () {
        () if cfg!(all(target_os = "linux", target_arch = "x86_64")) => EM_X86_64,
        () if cfg!(all(target_os = "linux", target_arch = "aarch64", target_endian = "little")) => EM_AARCH64,
        () => return None,
    };
    let names = [b"\0", name.as_bytes(), b"\0"].concat();
    // The parts of the file, one after the other, each at a multiple of eight.
    let symbols = HEADER + PROGRAM_HEADERS * PROGRAM_HEADER;
    let hash = symbols + 2 * SYMBOL;
    let strings = hash + 24;
    let dynamic = (strings + names.len() as u64).next_multiple_of(8);
    let end = dynamic + 6 * 16;

    let mut file = Vec::new();
    // The header: 64 bits, little-endian, a shared object (ET_DYN) without entry point and sections.
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put16(&mut file, [3, machine]);
    put32(&mut file, [1]);
    put64(&mut file, [0, HEADER, 0]);
    put32(&mut file, [0]);
    put16(&mut file, [HEADER as u16, PROGRAM_HEADER as u16, PROGRAM_HEADERS as u16, 0, 0, 0]);
    // PT_LOAD: the whole file, readable and writable, since the loader writes into the dynamic section.
    put32(&mut file, [1, 6]);
    put64(&mut file, [0, 0, 0, end, end, 0x1_0000]);
    // PT_DYNAMIC
    put32(&mut file, [2, 6]);
    put64(&mut file, [dynamic, dynamic, dynamic, end - dynamic, end - dynamic, 8]);
    // PT_GNU_STACK: without it the loader would make the stack executable.
    put32(&mut file, [0x6474_e551, 6]);
    put64(&mut file, [0, 0, 0, 0, 0, 16]);
    // The symbols: the empty one, and a global function (0x12) that is absolute (0xfff1).
    file.resize(file.len() + SYMBOL as usize, 0);
    put32(&mut file, [1]);
    file.extend([0x12, 0]);
    put16(&mut file, [0xfff1]);
    put64(&mut file, [address as u64, 0]);
    // The hash table: one bucket with symbol 1, and two ends of chains.
    put32(&mut file, [1, 2, 1, 0, 0, 0]);
    file.extend(&names);
    file.resize(dynamic as usize, 0);
    // DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL
    put64(&mut file, [4, hash, 5, strings, 6, symbols, 10, names.len() as u64, 11, SYMBOL, 0, 0]);
    Some(file)
}

/// Sizes in the format, in bytes, and the number of program headers.
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const PROGRAM_HEADERS: u64 = 3;
const SYMBOL: u64 = 24;

fn put16<const N: usize>(file: &mut Vec<u8>, values: [u16; N]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}

fn put32<const N: usize>(file: &mut Vec<u8>, values: [u32; N]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}

fn put64<const N: usize>(file: &mut Vec<u8>, values: [u64; N]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}
