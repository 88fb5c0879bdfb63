<?php

use App\Http\Controllers\MessageController;
use App\Http\Controllers\TestController;
use Illuminate\Support\Facades\Route;

Route::middleware('auth:api')->group(function () {
    Route::post('messages', [MessageController::class, 'store']);
    Route::post('messages/mark-read/{user}', [MessageController::class, 'markRead']);
    Route::post('messages/typing/{user}', [MessageController::class, 'typing']);
    Route::post('users/online-status', [MessageController::class, 'online']);
});

Route::post('test/broadcast', [TestController::class, 'broadcast']);
