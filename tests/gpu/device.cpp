// A CUDA device for a PyTorch without CUDA: it exists, and does nothing.
//
// With it, autograd runs on fake tensors of the device "cuda:0", and host memory can be pinned.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>

#include <mutex>
#include <unordered_set>

namespace {

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
    c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
    c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
    c10::Stream getStream(c10::Device device) const noexcept override {
        return c10::Stream(c10::Stream::DEFAULT, device);
    }
    c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

std::mutex mutex;
std::unordered_set<const void*> pinned;

void release(void* data) {
    {
        std::lock_guard<std::mutex> lock(mutex);
        pinned.erase(data);
    }
    c10::free_cpu(data);
}

struct PinnedAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        void* data = c10::alloc_cpu(bytes);
        std::lock_guard<std::mutex> lock(mutex);
        pinned.insert(data);
        return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} allocator;

}  // namespace

namespace at {

struct Hooks final : CUDAHooksInterface {
    explicit Hooks(CUDAHooksArgs) {}
    void init() const override {}
    bool hasCUDA() const override { return true; }
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    int getNumGPUs() const override { return 1; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex current_device() const override { return 0; }
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    c10::Allocator* getPinnedMemoryAllocator() const override { return &allocator; }
    bool isPinnedPtr(const void* data) const override {
        std::lock_guard<std::mutex> lock(mutex);
        return pinned.count(data) > 0;
    }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)

}  // namespace at
