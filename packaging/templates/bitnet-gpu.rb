class BitnetGpu < Formula
  desc "Runs ternary language models on the processor or a GPU"
  homepage "@REPOSITORY@"
  version "@VERSION@"
  license "MIT"

  on_macos do
    url "@REPOSITORY@/releases/download/v@VERSION@/bitnet-gpu-@VERSION@-universal-apple-darwin.tar.gz"
    sha256 "@SHA256 universal-apple-darwin.tar.gz@"
  end

  on_linux do
    on_intel do
      url "@REPOSITORY@/releases/download/v@VERSION@/bitnet-gpu-@VERSION@-x86_64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256 x86_64-unknown-linux-gnu.tar.gz@"
    end
    on_arm do
      url "@REPOSITORY@/releases/download/v@VERSION@/bitnet-gpu-@VERSION@-aarch64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256 aarch64-unknown-linux-gnu.tar.gz@"
    end
  end

  def install
    bin.install "bitnet-gpu"
    man1.install "bitnet-gpu.1"
    bash_completion.install "completions/bitnet-gpu.bash" => "bitnet-gpu"
    zsh_completion.install "completions/_bitnet-gpu"
    fish_completion.install "completions/bitnet-gpu.fish"
  end

  test do
    assert_match "Once upon a time", shell_output("#{bin}/bitnet-gpu run -p 'Once upon a time' -n 8 --backend cpu")
  end
end
