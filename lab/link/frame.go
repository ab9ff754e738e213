package link

import "encoding/binary"

// vnetHeader is the length of the virtio_net_hdr that the kernel puts before each frame of a TAP with IFF_VNET_HDR. It
// passes from one end to the other as it is: checksums and segments that the one kernel left to do, the other does.
const vnetHeader = 10

// wireSize returns how many bytes and packets a frame is once it has been cut into segments: what a real line would
// carry. The frame begins with its virtio_net_hdr (all in the machine's byte order).
func wireSize(frame []byte) (bytes, packets int) {
	bytes = len(frame) - vnetHeader
	if bytes < 0 {
		return 0, 0
	}
	gsoType, gsoSize := frame[1]&0x7f, int(binary.NativeEndian.Uint16(frame[4:]))
	if gsoType == 0 || gsoSize == 0 {
		return bytes, 1
	}
	// For segments the checksum's begin is the transport header's; the header-length field is a mere hint.
	transport := vnetHeader + int(binary.NativeEndian.Uint16(frame[6:]))
	if transport+13 > len(frame) {
		return bytes, 1
	}
	headers := transport - vnetHeader + int(frame[transport+12]>>4)*4
	payload := bytes - headers
	if payload <= gsoSize {
		return bytes, 1
	}
	packets = (payload + gsoSize - 1) / gsoSize
	return bytes + (packets-1)*headers, packets
}
