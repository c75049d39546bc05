# The Homebrew formula, with the place of the source as a placeholder. The release workflow fills it in:
#
#   packaging/homebrew/fill URL SOURCE.tar.gz > claviger.rb
class Claviger < Formula
  desc "DIDComm v2 agent whose private keys never leave the hardware"
  homepage "@HOMEPAGE@"
  url "@URL@"
  sha256 "@SHA256@"
  license any_of: ["Apache-2.0", "MIT"]

  depends_on "cmake" => :build
  depends_on "pkgconf" => :build
  depends_on "rust" => :build
  # The agent's sandbox is Landlock and seccomp. On macOS the program was never tried.
  depends_on :linux
  depends_on "pcsc-lite"

  def install
    system "cargo", "install", "--features", "cli,yubikey", *std_cargo_args
    generate_completions_from_executable(bin/"claviger", "completions")
    (man1/"claviger.1").write Utils.safe_popen_read(bin/"claviger", "man")
    pkgshare.install "packaging/monitoring"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/claviger --version")
    did = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
    assert_match did, shell_output("#{bin}/claviger did resolve #{did}")
  end
end
