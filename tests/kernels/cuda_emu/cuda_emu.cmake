#The emulated GPU : kernels / cuda/*.cu compiled by the C++ compiler against the headers here.
#   lm_cuda_emu      the emulator and its cudart, cuBLASLt and NCCL
#   test_cuda_x      tests/kernels/test_cuda_x.cu, on it

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
target_compile_options(lm_cuda_emu_flags INTERFACE -Wno-unknown-pragmas)
target_link_libraries(lm_cuda_emu_flags INTERFACE lm_flags)

# Tells CMake that .cu files of this folder are C++; the compiler goes by -x.
function(lm_cuda_emu_sources)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
endfunction()

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*.cc")
add_library(lm_cuda_emu STATIC ${sources})
target_link_libraries(lm_cuda_emu PUBLIC lm_cuda_emu_flags Threads::Threads)

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/test_cuda_*.cu"
  "${CMAKE_CURRENT_LIST_DIR}/test_*.cu")
lm_cuda_emu_sources(${sources})
foreach(source IN LISTS sources)
  lm_c_test(${source} kernels LINK lm_cuda_emu lm_kernels TIMEOUT 600)
endforeach()
