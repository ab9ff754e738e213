package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func newReader(t testing.TB, r io.Reader) *Reader {
	t.Helper()
	rd, err := NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rd.Close)
	return rd
}

func newEncoder(t testing.TB) *Encoder {
	t.Helper()
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// samples are one frame of each kind that carries a payload, and some that do not.
func samples(e *Encoder) [][]byte {
	text := bytes.Repeat([]byte("godwit "), 1000)
	noise := make([]byte, 4096)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	hello := Hello{Version: Version, Session: 7, Connection: 1, Size: 1 << 30, Name: "shop.root"}
	group := Open{Version: Version, Session: 7, Connection: 1, Name: "shop", Volumes: []OpenVolume{{"shop.root", 1 << 30}, {"shop.log", 512}}}
	var out [][]byte
	for _, s := range []struct {
		h Header
		c []byte
	}{
		{Header{Type: TypeHello, Epoch: 9}, hello.Append(nil)},
		{Header{Type: TypeWelcome, Epoch: 9, Seq: WelcomeFresh}, nil},
		{Header{Type: TypeReject, Epoch: 9}, []byte("no")},
		{Header{Type: TypeData, Epoch: 9, Seq: 1, Offset: 4096}, text},
		{Header{Type: TypeData, Flags: FlagSync, Epoch: 9, Seq: 2, Offset: 512}, noise},
		{Header{Type: TypeZero, Epoch: 9, Seq: 3, Length: MaxZero}, nil},
		{Header{Type: TypeBarrier, Flags: FlagSync, Epoch: 9, Seq: 4}, nil},
		{Header{Type: TypeComplete, Epoch: 9, Seq: 5, Offset: 4}, make([]byte, 8)},
		{Header{Type: TypeAck, Epoch: 9, Seq: 5, Offset: 2}, nil},
		{Header{Type: TypeOpen, Epoch: 9}, group.Append(nil)},
		{Header{Type: TypeOpened, Epoch: 9}, (&Opened{Lineage: 3, Committed: 4, Time: 5, Flags: OpenedComplete}).Append(nil)},
		{Header{Type: TypeBegin, Epoch: 9, Seq: 1, Offset: 7}, nil},
		{Header{Type: TypeData, Epoch: 9, Seq: 2, Volume: 3, Offset: 4096}, noise},
		{Header{Type: TypeCommit, Epoch: 9, Seq: 3, Offset: 7}, (&Commit{Time: 1, Frames: 1, Content: 4096}).Append(nil)},
		{Header{Type: TypeCommitted, Epoch: 9, Offset: 7}, nil},
		{Header{Type: TypeAsk, Epoch: 9, Seq: 4, Volume: 1, Length: MaxAsk}, nil},
		{Header{Type: TypeHashes, Epoch: 9, Volume: 1}, bytes.Repeat([]byte("8 bytes."), MaxAsk/HashBlock)},
		{Header{Type: TypeKeep, Epoch: 9, Seq: 5}, AppendKeep(nil, 60, "noon")},
		{Header{Type: TypeFetch, Epoch: 9, Seq: 6, Volume: 2, Length: 512}, nil},
		{Header{Type: TypeMissing, Epoch: 9, Seq: 6, Volume: 2, Offset: 4096}, nil},
	} {
		out = append(out, bytes.Clone(e.Encode(s.h, s.c).B))
	}
	return out
}

func TestFramesSurviveTheWire(t *testing.T) {
	e := newEncoder(t)
	all := samples(e)
	r := newReader(t, bytes.NewReader(bytes.Join(all, nil)))
	for i, want := range all {
		h, content, err := r.Next()
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if got := e.Encode(h, content); !bytes.Equal(got.B, want) {
			t.Fatalf("frame %d (type %d) does not encode to itself", i, h.Type)
		}
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last frame: %v, want EOF", err)
	}
}

func TestEverySingleBitFlipIsFound(t *testing.T) {
	for i, frame := range samples(newEncoder(t)) {
		for bit := range len(frame) * 8 {
			if bit > HeaderSize*8 && bit%97 != 0 || len(frame) > 8192 && bit > 64 {
				continue
			}
			bad := bytes.Clone(frame)
			bad[bit/8] ^= 1 << (bit % 8)
			if _, _, err := newReader(t, bytes.NewReader(bad)).Next(); err == nil {
				t.Fatalf("frame %d: flipped bit %d went unnoticed", i, bit)
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	e := newEncoder(f)
	for _, s := range samples(e) {
		f.Add(s)
		f.Add(s[:len(s)-1])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newReader(t, bytes.NewReader(data))
		for {
			h, content, err := r.Next()
			if err != nil {
				return
			}
			if len(content) > MaxData || (h.Type == TypeData && len(content) != int(h.Length)) {
				t.Fatalf("%d bytes of content for %+v", len(content), h)
			}
			if h.Type == TypeHello {
				if hello, err := ParseHello(content); err == nil && !bytes.Equal(hello.Append(nil), content) {
					t.Fatalf("hello %+v does not encode to itself", hello)
				}
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	h := Hello{Version: Version, Name: "a"}
	f.Add(h.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if hello, err := ParseHello(data); err == nil && !bytes.Equal(hello.Append(nil), data) {
			t.Fatalf("hello %+v does not encode to itself", hello)
		}
	})
}

func FuzzOpen(f *testing.F) {
	o := Open{Version: Version, Name: "a", Volumes: []OpenVolume{{"a.root", 512}}}
	f.Add(o.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if open, err := ParseOpen(data); err == nil && open.Version == Version && !bytes.Equal(open.Append(nil), data) {
			t.Fatalf("%+v does not encode to itself", open)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e := newEncoder(b)
	content := bytes.Repeat([]byte("godwit 0123456789 "), 3641)[:65536]
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		e.Encode(Header{Type: TypeData, Epoch: 1, Seq: 1}, content).Release()
	}
}

func TestCompressionIsThereAtOnceAfterNoise(t *testing.T) {
	e := newEncoder(t)
	rng := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for range 1000 {
		if n := len(e.Encode(Header{Type: TypeData, Seq: 1}, noise).B); n != HeaderSize+len(noise) {
			t.Fatalf("noise became a frame of %d bytes", n)
		}
	}
	text := bytes.Repeat([]byte("what compresses "), 256)
	if len(e.Encode(Header{Type: TypeData, Seq: 1}, text).B) > 1000 {
		t.Error("what compresses is sent as it is")
	}
}

func TestNoiseIsHardlyEverCompressedAndAllElseIs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<16)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	half := bytes.Clone(noise)
	clear(half[len(half)/2:])
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	compressed := func(content []byte) bool {
		f := e.Encode(Header{Type: TypeData, Epoch: 1}, content)
		defer f.Release()
		return f.B[5]&FlagZstd != 0
	}
	for n := minCompress; n <= len(noise); n *= 2 {
		if !e.looksLikeNoise(noise[:n]) {
			t.Errorf("%d bytes of noise are not seen", n)
		}
		if !e.looksLikeNoise(skewed(noise[:n])) {
			t.Errorf("%d bytes of which less than an eighth could be saved are not taken for noise", n)
		}
		for name, p := range map[string][]byte{"text": bytes.Repeat([]byte("the quick brown fox "), n/20+1)[:n], "half noise": half[len(half)/2-n/2:][:n], "numbers": numbers(n)} {
			if e.looksLikeNoise(p) || !compressed(p) {
				t.Errorf("%d bytes of %s are taken for noise, or not compressed", n, name)
			}
		}
	}
	// What looks like noise and is compressible nevertheless is found out after a while.
	twice := append(bytes.Clone(noise[:4096]), noise[:4096]...)
	tries := 0
	for ; !compressed(twice); tries++ {
		if tries > maxPause {
			t.Fatal("it is never tried")
		}
	}
	for range 4 * maxPause {
		compressed(twice)
	}
	if first := compressed(twice); !first || !compressed(twice) {
		t.Error("it is not always compressed, although that always helps")
	}
}

func TestMoreEffortMakesSmallerFramesThatReadTheSame(t *testing.T) {
	content := make([]byte, 4*minThorough)
	rng := rand.New(rand.NewPCG(3, 1))
	for block := content; len(block) > 0; block = block[4096:] {
		for i := range 1400 {
			block[i] = byte(rng.Uint32())
		}
	}
	e, sizes := newEncoder(t), map[Effort]int{}
	for _, effort := range []Effort{Balanced, Thorough, Hurried, Balanced} {
		e.SetEffort(effort)
		f := e.Encode(Header{Type: TypeData, Epoch: 1, Seq: 1}, content)
		if had := sizes[effort]; had != 0 && had != len(f.B) {
			t.Errorf("effort %d made %d bytes before, and %d now", effort, had, len(f.B))
		}
		sizes[effort] = len(f.B)
		if _, got, err := newReader(t, bytes.NewReader(f.B)).Next(); err != nil || !bytes.Equal(got, content) {
			t.Errorf("effort %d: other bytes come back, %v", effort, err)
		}
		f.Release()
	}
	if sizes[Thorough] >= sizes[Balanced] || sizes[Hurried] != sizes[Balanced] {
		t.Errorf("bytes by effort: %v", sizes)
	}
}

// numbers are what a table of small numbers looks like.
func numbers(n int) []byte {
	var p []byte
	for i := 0; len(p) < n; i++ {
		p = binary.BigEndian.AppendUint64(p, uint64(i*i))
	}
	return p[:n]
}

// skewed is noise in which one byte is more frequent.
func skewed(noise []byte) []byte {
	p := bytes.Clone(noise)
	for i := 0; i < len(p); i += 20 {
		p[i] = 0
	}
	return p
}

func BenchmarkLookingForNoise(b *testing.B) {
	e := newEncoder(b)
	p := bytes.Repeat([]byte("godwit 0123456789 "), 300)[:4096]
	for b.Loop() {
		e.looksLikeNoise(p)
	}
}
