# The emulated GPU: kernels/cuda/*.cu compiled by the C++ compiler against the headers here.
#   lm_cuda_emu            the emulator and its cudart, cuBLASLt and NCCL
#   lm_cuda_emu_kernels    kernels/cuda on it
#   liblm-cuda-emu.so      both as the module that LM_CUDA_MODULE can name, for a whole lm-agent
#   test_cuda_x            tests/kernels/test_cuda_x.cu or .c, tests/kernels/cuda_emu/test_cuda_x.cu

include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(STATUS "no C++ compiler: the CUDA backend is not tested on the emulated GPU")
  return()
endif()
enable_language(CXX)

add_library(lm_cuda_emu_flags INTERFACE)
target_include_directories(lm_cuda_emu_flags INTERFACE "${CMAKE_CURRENT_LIST_DIR}")
target_compile_definitions(lm_cuda_emu_flags INTERFACE LM_CUDA_EMULATED=1)
target_compile_features(lm_cuda_emu_flags INTERFACE cxx_std_20)
target_compile_options(lm_cuda_emu_flags INTERFACE 
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-pragmas>
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-shadow>) # "struct x and x()" hides a constructor
target_link_libraries(lm_cuda_emu_flags INTERFACE lm_flags)

# .cu files are C++ in this folder; the compiler must be told, too.
function(lm_cuda_emu_sources)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
endfunction()

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*.cc")
add_library(lm_cuda_emu STATIC ${sources})
target_link_libraries(lm_cuda_emu PUBLIC lm_cuda_emu_flags Threads::Threads)

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu")
lm_cuda_emu_sources(${sources})
add_library(lm_cuda_emu_kernels STATIC ${sources})
target_link_libraries(lm_cuda_emu_kernels PUBLIC lm_cuda_emu)
set_target_properties(lm_cuda_emu lm_cuda_emu_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)

lm_cuda_module(lm-cuda-emu LINK "-Wl,--whole-archive" lm_cuda_emu_kernels "-Wl,--no-whole-archive")
set(LM_CUDA_EMU_MODULE "$<TARGET_FILE:lm-cuda-emu>")

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/test_cuda_*.cu"
  "${CMAKE_CURRENT_LIST_DIR}/test_*.cu")
lm_cuda_emu_sources(${sources})
file(GLOB c_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/test_cuda_*.c")
foreach(source IN LISTS sources c_sources)
  lm_c_test(${source} kernels LINK lm_cuda_emu_kernels lm_kernels TIMEOUT 600)
endforeach()
