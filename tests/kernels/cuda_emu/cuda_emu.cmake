# The emulated GPU: kernels/cuda/*.cu compiled by the C++ compiler against the headers here.
#   lm_cuda_emu_kernels         kernels/cuda and the emulator, with the sanitizers of the build
#   lm_cuda_emu_kernels_race    the same, with race hooks instead
#   liblm-cuda-emu.so           kernels/cuda as the module that LM_CUDA_MODULE can name, for a whole lm-agent
#   test_cuda_x, _race          tests/kernels/test_cuda_x.cu or .c, tests/kernels/cuda_emu/test_cuda_x.cu

if(LM_SANITIZE MATCHES "thread")
  return() # libtsan doesn't know our fibers
endif()
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
# initial-exec: the thread that runs is a thread_local, and in a module each look at it would be a call.
target_compile_options(lm_cuda_emu_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-pragmas> $<$<COMPILE_LANGUAGE:CXX>:-ftls-model=initial-exec>)
target_link_libraries(lm_cuda_emu_flags INTERFACE lm_flags)

# .cu files are C++ in this folder. The compiler must be told, too, and that "struct x and x()" is fine;
# more than -O1 costs more time to compile than it saves.
function(lm_cuda_emu_sources)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-Wno-shadow;-O1")
endfunction()

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*.cc")
list(FILTER sources EXCLUDE REGEX "/emu_(no_)?race\\.cc$")
add_library(lm_cuda_emu_core STATIC ${sources})
target_link_libraries(lm_cuda_emu_core PUBLIC lm_cuda_emu_flags Threads::Threads)
# What runs for every switch of threads, warp operation or access: no sanitizer looks at it, or it would take
# half the time of all tests here. It still tells ASan of stacks.
if(LM_SANITIZE MATCHES "address")
  target_compile_definitions(lm_cuda_emu_flags INTERFACE LM_CUDA_EMU_ASAN=1)
endif()
foreach(name block fiber mma race)
  set_property(SOURCE "${CMAKE_CURRENT_LIST_DIR}/emu_${name}.cc" APPEND PROPERTY COMPILE_OPTIONS "-fno-sanitize=all;-O2")
endforeach()

file(GLOB kernels CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu")
lm_cuda_emu_sources(${kernels})

# With the sanitizers of the build.
add_library(lm_cuda_emu STATIC "${CMAKE_CURRENT_LIST_DIR}/emu_no_race.cc")
target_link_libraries(lm_cuda_emu PUBLIC lm_cuda_emu_core)
add_library(lm_cuda_emu_kernels STATIC ${kernels})
target_link_libraries(lm_cuda_emu_kernels PUBLIC lm_cuda_emu)
set_target_properties(lm_cuda_emu_core lm_cuda_emu lm_cuda_emu_kernels PROPERTIES
  POSITION_INDEPENDENT_CODE ON)

# Kernels instrumented for our own race hooks: they call what libtsan would define.
add_library(lm_cuda_emu_race_flags INTERFACE)
target_compile_definitions(lm_cuda_emu_race_flags INTERFACE LM_CUDA_EMU_RACE=1)
target_compile_options(lm_cuda_emu_race_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize=all> $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=thread>)
add_library(lm_cuda_emu_race STATIC "${CMAKE_CURRENT_LIST_DIR}/emu_race.cc")
target_link_libraries(lm_cuda_emu_race PUBLIC lm_cuda_emu_core INTERFACE lm_cuda_emu_race_flags)
add_library(lm_cuda_emu_kernels_race STATIC ${kernels})
target_link_libraries(lm_cuda_emu_kernels_race PUBLIC lm_cuda_emu_race)

lm_cuda_module(lm-cuda-emu LINK "-Wl,--whole-archive" lm_cuda_emu_kernels "-Wl,--no-whole-archive")

# Each test in forward order with the sanitizers, and
#   RACE      in random order with the race hooks, which takes some ten times as long
#   REVERSE   in reverse order with the sanitizers
function(lm_cuda_emu_test source library)
  cmake_parse_arguments(arg "RACE;REVERSE" "" "LINK" ${ARGN})
  get_filename_component(name ${source} NAME_WE)
  lm_c_test(${source} kernels LINK ${library} ${arg_LINK} TIMEOUT 600)
  if(arg_RACE)
    lm_c_test(${source} kernels SUFFIX _race LINK ${library}_race ${arg_LINK} TIMEOUT 600)
    set_property(TEST kernels/${name}_race APPEND PROPERTY ENVIRONMENT "LM_CUDA_EMU_ORDER=random")
  endif()
  if(arg_REVERSE)
    add_test(NAME kernels/${name}_reverse COMMAND ${name})
    set_tests_properties(kernels/${name}_reverse PROPERTIES LABELS kernels TIMEOUT 600 PROCESSORS 2)
    set_property(TEST kernels/${name}_reverse PROPERTY ENVIRONMENT
      "LM_TEST_DATA=${CMAKE_SOURCE_DIR}/tests;LM_CUDA_EMU_ORDER=reverse")
  endif()
endfunction()

file(GLOB own CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/test_*.cu")
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/test_cuda_*.cu")
lm_cuda_emu_sources(${own} ${sources})
file(GLOB c_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/kernels/test_cuda_*.c")
foreach(source IN LISTS own)
  lm_cuda_emu_test(${source} lm_cuda_emu RACE REVERSE)
endforeach()
foreach(source IN LISTS sources c_sources)
  set(modes RACE REVERSE)
  if(source MATCHES "test_cuda_attention_bits") # kernels of test_cuda_attention; goes through orders itself
    set(modes "")
  elseif(source MATCHES "test_cuda_attention")
    set(modes RACE)
  endif()
  lm_cuda_emu_test(${source} lm_cuda_emu_kernels ${modes} LINK lm_kernels)
endforeach()

# The benchmarks of scripts/gpu-check: that their code is right, before a GPU's time is spent on it.
foreach(part steps peer experts)
  set(source "${CMAKE_CURRENT_SOURCE_DIR}/kernels/gpu_bench_${part}.cu")
  lm_cuda_emu_sources(${source})
  add_executable(gpu_bench_${part} ${source})
  target_link_libraries(gpu_bench_${part} PRIVATE lm_cuda_emu_kernels lm_kernels lm_flags)
  set_target_properties(gpu_bench_${part} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
endforeach()
add_test(NAME kernels/gpu_bench_dry COMMAND gpu_bench_steps dry)
add_test(NAME kernels/gpu_bench_dry_fp8 COMMAND gpu_bench_steps dry-fp8)
add_test(NAME kernels/gpu_bench_peer_dry COMMAND gpu_bench_peer dry)
add_test(NAME kernels/gpu_bench_experts_dry COMMAND gpu_bench_experts dry)
set_tests_properties(kernels/gpu_bench_dry kernels/gpu_bench_dry_fp8 kernels/gpu_bench_peer_dry
  kernels/gpu_bench_experts_dry PROPERTIES LABELS kernels TIMEOUT 600 PROCESSORS 2)
set_property(TEST kernels/gpu_bench_peer_dry PROPERTY ENVIRONMENT "LM_CUDA_EMU_DEVICES=3")

# Golden tests over the emulated device, through the module as a program would load it. One model of each
# kind, a quarter of a minute each; all of them: run the test with this environment but LM_ONLY.
set(LM_CUDA_EMU_ENVIRONMENT "LM_CUDA_MODULE=$<TARGET_FILE:lm-cuda-emu>" "LM_TEST_BACKEND=cuda"
  "LM_CUDA_EMU_DEVICES=4" "LM_CUDA_EMU_BUSY_US=300" "LM_ONLY=llama2,llama_awq,qwen3_fp8,gemma2,gpt_oss,olmo2,qwen2_moe,deepseek_v3"
  "LM_TEST_FLOAT16=llama2,qwen3_fp8,qwen2_moe") # beside llama_awq, which is float16 by itself
function(lm_cuda_emu_golden name)
  add_test(NAME golden/${name}_cuda COMMAND ${name})
  set_tests_properties(golden/${name}_cuda PROPERTIES LABELS golden TIMEOUT 900 SKIP_RETURN_CODE 77 PROCESSORS 2)
  set_property(TEST golden/${name}_cuda PROPERTY ENVIRONMENT
    "LM_TEST_DATA=${CMAKE_SOURCE_DIR}/tests" ${LM_CUDA_EMU_ENVIRONMENT})
  add_dependencies(${name} lm-cuda-emu)
endfunction()
